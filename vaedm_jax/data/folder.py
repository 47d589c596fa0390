"""Images in a folder and its subfolders, of any format, mode and size."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vaedm_jax.data.dataset import Dataset, Lazy, split
from vaedm_jax.data.images import MOST_PIXELS, read
from vaedm_jax.data.listing import images_under
from vaedm_jax.errors import UserError
from vaedm_jax.storage import paths

CELEBA_PHOTOGRAPHS = "CelebA-HQ-img"  # the photographs of CelebAMask-HQ; other folders beside it have masks
CACHE_BYTES = 2 * 10**9  # images that take more are not kept in memory


def load(
    path: str,
    size: int,
    held_out: float,
    keep: bool = True,
    most_pixels: int = MOST_PIXELS,
    every_format: bool = True,
) -> Dataset:
    """Return the images in a folder. All are decoded here once, so that errors come before training.

    Args:
      keep: keep the images in memory if they take at most CACHE_BYTES; otherwise, they are decoded for every batch.
      most_pixels: the largest number of pixels of an image.
      every_format: see `listing.images_under`.

    Raises:
      UserError: the folder does not exist or has no images, or an image cannot be read.
    """
    root, names = list_images(path, every_format)
    files = [root / name for name in names]
    cache, digests = decode_all(files, size, keep and len(files) * size * size * 3 <= CACHE_BYTES, most_pixels)

    def image(index: int) -> np.ndarray:
        return read(files[index], size, most_pixels) if cache is None else cache[index]

    train, test = (Lazy(side, image) for side in split(names, held_out))
    return Dataset(root.name or str(root), train, test, str(root), digest_files(names, digests))


def list_images(path: str, every_format: bool = True) -> tuple[Path, list[str]]:
    """Return the folder of the images under `data.path`, and their names in it; raise UserError if there are none."""
    root = paths.folder(path, "data.path").resolve()
    if (root / CELEBA_PHOTOGRAPHS).is_dir():
        root = root / CELEBA_PHOTOGRAPHS
    names = images_under(root, "data.path", every_format).names
    if not names:
        raise UserError(
            f"data.path: {paths.shown(root)} holds no images, nor do its subfolders; their names must end in .png, "
            ".jpg, .webp or another ending that Pillow knows"
        )
    return root, names


def pictures(path: str, most_pixels: int = MOST_PIXELS) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Return, for each picture in the folder `restore.files`, its name and a function that reads it.

    The function returns uint8 [H, W, 3] at the size of the picture.
    """
    root = paths.folder(path, "restore.files")
    if not (names := images_under(root, "restore.files").names):
        raise UserError(f"restore.files: {paths.shown(root)} holds no images")
    return [(name, partial(read, root / name, None, most_pixels)) for name in names]


def digest_files(names: list[str], digests: list[bytes]) -> str:
    """Return a digest of files, from their names and the digests of their bytes."""
    total = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        total.update(hashlib.sha256(os.fsencode(name)).digest() + digest)
    return total.hexdigest()[:32]


def decode_all(files: list[Path], size: int, keep: bool, most_pixels: int) -> tuple[np.ndarray | None, list[bytes]]:
    """Decode all files; return uint8 [N, size, size, 3], or None unless `keep`, and the SHA-256 of each file.

    Raises:
      UserError: a file cannot be read. The message names the first one and counts the others.
    """
    cache = np.empty((len(files), size, size, 3), np.uint8) if keep else None
    bad, digests = [], []

    def attempt(path: Path) -> tuple[np.ndarray, bytes] | UserError:
        try:
            image = read(path, size, most_pixels)
            with paths.opened(path, "data.path") as file:  # the system still has it in memory
                return image, hashlib.file_digest(file, "sha256").digest()
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(
            pool.map(attempt, files), "reading images", len(files), unit="", leave=False, delay=2, disable=None
        )
        for i, result in enumerate(results):
            if isinstance(result, UserError):
                bad.append(result)
                continue
            digests.append(result[1])
            if keep:
                cache[i] = result[0]
    if bad:
        raise UserError(str(bad[0]) + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")) from bad[0]
    return cache, digests
