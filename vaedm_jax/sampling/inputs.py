"""Inputs of a model: their checks, their digests, and paths between two of them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from vaedm_jax.data.images import square
from vaedm_jax.errors import UserError, check_choice, check_range

Images = ArrayLike | Image.Image | Sequence[Image.Image]

MOST = 2**31 - 1  # the number of images that a seed has
PATHS = ("linear", "spherical")


def check_indices(n: int, seed: int, first: int = 0) -> None:
    """Raise UserError unless a seed has n images from index `first` on."""
    check_range("n", n, 1, MOST, "a seed has no more images")
    check_range("seed", seed, 0, 2**32 - 1)
    check_range("first", first, 0, MOST - n)


def as_array(name: str, values: Any, dtype: Any = None) -> np.ndarray:
    """Return values as an array; raise UserError if they are not numbers."""
    try:
        values = np.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name} is not an array of numbers") from error
    if values.dtype.kind not in "buif" and values.dtype.name != "bfloat16":
        raise UserError(f"{name} is an array of {values.dtype}; it must be an array of numbers")
    return values


def spread(name: str, values: Any, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return values as float32 [n, *shape]; values [*shape] are repeated. Raise UserError for other shapes."""
    values = as_array(name, values).astype(np.float32)
    if values.shape not in ((n, *shape), shape):
        raise UserError(
            f"{name} has the shape {values.shape}; for {n} images of this model it must be {(n, *shape)} or {shape}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{name} is not finite")
    return np.broadcast_to(values, (n, *shape))


def as_pixels(name: str, images: Images, size: int) -> np.ndarray:
    """Return images as an array; a PIL image, or a list of them, as uint8 [N, size, size, 3].

    PIL images are prepared as for training: laid on white, resized, and cropped to the centre.
    """
    pictures = [images] if isinstance(images, Image.Image) else images
    if not (isinstance(pictures, list | tuple) and pictures and all(isinstance(p, Image.Image) for p in pictures)):
        return as_array(name, images)
    try:
        return np.stack([square(picture, size) for picture in pictures])
    except (ValueError, OSError) as error:  # an unknown range of pixels, or a damaged file that is only read now
        raise UserError(f"{name}: a picture cannot be read ({error})") from error


def as_images(name: str, images: Any, shape: tuple[int, int, int], multiple: int = 0) -> np.ndarray:
    """Return images [N, *shape] as float32 in [0, 1]; raise UserError for another shape or range.

    Args:
      images: an array, or PIL images of any size; see `as_pixels`.
      multiple: allow all sizes whose sides are multiples of it; 0 allows only the size of the shape.
    """
    images = as_pixels(name, images, shape[0])
    if multiple:
        fits = images.ndim == 4 and images.shape[3] == 3 and not any(side % multiple for side in images.shape[1:3])
        wanted = f"N, H, W, 3], H and W multiples of {multiple}"
    else:
        fits, wanted = images.ndim == 4 and images.shape[1:] == shape, f"N, {', '.join(map(str, shape))}]"
    if not fits or not images.size:
        raise UserError(f"{name}: the shape is {images.shape}; this model takes [{wanted}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if images.dtype.kind in "bui":
        raise UserError(f"{name}: the type is {images.dtype}; give uint8, or floats in [0, 1]")
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise UserError(f"{name} is not finite")
    if not (images.min() >= 0 and images.max() <= 1):
        low, high = images.min(), images.max()
        raise UserError(f"{name}: values from {low:g} to {high:g}; floats must be in [0, 1], uint8 in 0 ... 255")
    return images


def mirrored(images: np.ndarray, multiple: int) -> np.ndarray:
    """Return images [N, H, W, C], mirrored at the lower and the right edge to sides that are multiples of a number."""
    return np.pad(images, [(0, 0), *((0, -side % multiple) for side in images.shape[1:3]), (0, 0)], "symmetric")


def path_between(a: np.ndarray, b: np.ndarray, n: int, path: str = "linear") -> np.ndarray:
    """Return n points from a to b, both included, [n, *a.shape].

    Args:
      path: `linear`, as in the paper; or `spherical`, along the great circle, which keeps the norm of points that are
        drawn from a normal distribution (arXiv 1609.04468, section 2.3).
    """
    check_choice("path", path, PATHS)
    check_range("n", n, 1)
    a, b = (as_array("an end", end).astype(np.float32) for end in (a, b))
    if a.shape != b.shape:
        raise UserError(f"path from the shape {a.shape} to {b.shape}: the two ends must have one shape")
    s = np.linspace(0, 1, n).reshape(-1, *(1,) * a.ndim)
    cosine = np.sum(a * b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if path == "linear" or np.sin(angle) < 1e-4:  # the ends lie on one line, and the great circle is not determined
        return np.float32((1 - s) * a + s * b)
    return np.float32((np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / np.sin(angle))


def compute_digest(tree: Any, text: str = "") -> str:
    """Return a digest of a tree of arrays and of a text."""
    digest = hashlib.sha256(text.encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
