"""The emoji that come with the package: 3,786 images of 32 x 32, in ten categories."""

from pathlib import Path

import numpy as np
from PIL import Image

from vaedm_jax.data.images import square
from vaedm_jax.data.source import Dataset, split
from vaedm_jax.errors import UserError
from vaedm_jax.storage import Array, read_arrays

ARCHIVE = Path(__file__).with_name("noto_emoji_32.npz")
FORMS = {name: Array(str, ("N",)) for name in ("name", "category", "subcategory", "skin_tone")}
FORMS["image"] = Array(np.uint8, ("N", 32, 32, 3))


def load(category: str, size: int, held_out: float) -> Dataset:
    """All emoji or one category, the skin tones of each on one side; UserError for an unknown category."""
    train, test = (resized(side["image"], size) for side in sides(category, held_out))
    return Dataset(f"emoji ({category})" if category else "emoji", train, test)


def sides(category: str, held_out: float) -> list[dict[str, np.ndarray]]:
    """What `load` splits, with its labels: for either side `image` [N, 32, 32, 3], `name`, `category` and more, [N]."""
    arrays = read_arrays(ARCHIVE, FORMS)
    names, categories = arrays["name"], arrays["category"]
    known = np.unique(categories).tolist()
    if category and category not in known:
        raise UserError(f"data.category: no emoji category {category!r}; there are {', '.join(known)}")
    # Each category is split on its own, so that an emoji's side is the same with and without the filter.
    rows = [np.flatnonzero(categories == c) for c in ([category] if category else known)]
    parts = [[r[side] for side in split(names[r].tolist(), held_out)] for r in rows]
    chosen = [np.sort(np.concatenate(side)) for side in zip(*parts, strict=True)]
    return [{key: array[side] for key, array in arrays.items()} for side in chosen]


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """[N, H, W, 3] to [N, size, size, 3], both uint8."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([square(Image.fromarray(image), size) for image in images])
