"""The data source `emoji`: 3,786 images of 32 x 32 in ten categories, which the package includes."""

from pathlib import Path

import numpy as np
from PIL import Image

from vaedm_jax.data.dataset import Dataset, split
from vaedm_jax.data.images import square
from vaedm_jax.errors import UserError
from vaedm_jax.storage import Array, read_arrays

ARCHIVE = Path(__file__).with_name("noto_emoji_32.npz")
FORMS = {name: Array(str, ("N",)) for name in ("name", "category", "subcategory", "skin_tone")}
FORMS["image"] = Array(np.uint8, ("N", 32, 32, 3))


def load(category: str, size: int, held_out: float) -> Dataset:
    """Return the emoji of one category, or all if it is empty.

    All skin tones of an emoji are on the same side.

    Raises:
      UserError: there is no such category.
    """
    train, test = (resize(side["image"], size) for side in sides(category, held_out))
    return Dataset(f"emoji ({category})" if category else "emoji", train, test)


def sides(category: str, held_out: float) -> list[dict[str, np.ndarray]]:
    """Return the arrays of both sides, train and test, as `load` splits them.

    Each side has `image` [N, 32, 32, 3] and the labels `name`, `category`, `subcategory` and `skin_tone`, each [N].
    """
    arrays = read_arrays(ARCHIVE, FORMS)
    names, categories = arrays["name"], arrays["category"]
    known = np.unique(categories).tolist()
    if category and category not in known:
        raise UserError(f"data.category = {category!r}: must be one of {', '.join(known)}")
    # Each category is split separately, so that an emoji is on the same side with and without the filter.
    rows = [np.flatnonzero(categories == c) for c in ([category] if category else known)]
    parts = [[r[side] for side in split(names[r].tolist(), held_out)] for r in rows]
    chosen = [np.sort(np.concatenate(side)) for side in zip(*parts, strict=True)]
    return [{key: array[side] for key, array in arrays.items()} for side in chosen]


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize images [N, H, W, 3] to [N, size, size, 3], both uint8."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([square(Image.fromarray(image), size) for image in images])
