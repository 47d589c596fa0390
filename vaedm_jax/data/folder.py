"""A folder of images: any formats, modes and sizes, at any depth."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vaedm_jax.data.images import MOST_PIXELS, read
from vaedm_jax.data.listing import endings, images_under
from vaedm_jax.data.source import Dataset, Lazy, split
from vaedm_jax.errors import UserError
from vaedm_jax.storage import paths

CELEBA_PHOTOGRAPHS = "CelebA-HQ-img"  # beside it, CelebAMask-HQ has masks, which are images too
CACHE_BYTES = 2 * 10**9


def load(
    path: str,
    size: int,
    held_out: float,
    keep: bool = True,
    most_pixels: int = MOST_PIXELS,
    every_format: bool = True,
) -> Dataset:
    """The images under a folder. All are decoded here once, so that UserError comes before training does.

    With `keep` they stay in memory, where there are not too many; else they are decoded again for every batch.
    """
    root, names = listed(path, every_format)
    files = [root / name for name in names]
    cache, digests = decoded(files, size, keep and len(files) * size * size * 3 <= CACHE_BYTES, most_pixels)

    def image(index: int) -> np.ndarray:
        return read(files[index], size, most_pixels) if cache is None else cache[index]

    train, test = (Lazy(side, image) for side in split(names, held_out))
    return Dataset(root.name or str(root), train, test, str(root), digest_of(names, digests))


def listed(path: str, every_format: bool = True) -> tuple[Path, list[str]]:
    """Where the images under `data.path` are, and their names in that folder; UserError where there are none."""
    root = paths.folder(path, "data.path").resolve()
    if (root / CELEBA_PHOTOGRAPHS).is_dir():
        root = root / CELEBA_PHOTOGRAPHS
    names = images_under(root, "data.path", every_format).names
    if not names:
        kinds = ", ".join(sorted(endings()))
        raise UserError(f"data.path: {paths.shown(root)} holds no images, at no depth; their names end in {kinds}")
    return root, names


def pictures(path: str, most_pixels: int = MOST_PIXELS) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """The name of each picture under a folder, and what reads it: uint8 [H, W, 3], at its own size."""
    root = paths.folder(path, "restore.files")
    if not (names := images_under(root, "restore.files").names):
        raise UserError(f"restore.files: {paths.shown(root)} holds no images")
    return [(name, partial(read, root / name, None, most_pixels)) for name in names]


def digest_of(names: list[str], digests: list[bytes]) -> str:
    """Return what tells files from others, by their names and the digests of their bytes."""
    total = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        total.update(hashlib.sha256(os.fsencode(name)).digest() + digest)
    return total.hexdigest()[:32]


def decoded(files: list[Path], size: int, keep: bool, most_pixels: int) -> tuple[np.ndarray | None, list[bytes]]:
    """All files as uint8 [N, size, size, 3], or None unless `keep`, and a digest of the bytes of each.

    UserError names the first that is bad.
    """
    cache = np.empty((len(files), size, size, 3), np.uint8) if keep else None
    bad, digests = [], []

    def attempt(path: Path) -> tuple[np.ndarray, bytes] | UserError:
        try:
            image = read(path, size, most_pixels)
            with paths.opened(path, "data.path") as file:  # in memory still, since it was read just now
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
