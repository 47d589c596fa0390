"""A folder of images: any formats, modes and sizes, at any depth."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vaedm_jax.data.images import read
from vaedm_jax.data.source import Dataset, Lazy, split
from vaedm_jax.errors import UserError
from vaedm_jax.storage import paths

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CELEBA_PHOTOGRAPHS = "CelebA-HQ-img"  # beside it, CelebAMask-HQ has masks, which are images too
CACHE_BYTES = 2 * 10**9


def load(path: str, size: int, held_out: float, keep: bool = True) -> Dataset:
    """The images under a folder. All are decoded here once, so that UserError comes before training does.

    With `keep` they stay in memory, where there are not too many; else they are decoded again for every batch.
    """
    root, names = listed(path)
    files = [root / name for name in names]
    cache = decoded(files, size, keep and len(files) * size * size * 3 <= CACHE_BYTES)

    def image(index: int) -> np.ndarray:
        return read(files[index], size) if cache is None else cache[index]

    return Dataset(root.name or str(root), *(Lazy(side, image) for side in split(names, held_out)))


def listed(path: str) -> tuple[Path, list[str]]:
    """Where the images under `data.path` are, and their names in that folder; UserError where there are none."""
    root = paths.folder(path, "data.path").resolve()
    if (root / CELEBA_PHOTOGRAPHS).is_dir():
        root = root / CELEBA_PHOTOGRAPHS
    names = image_files(root)
    if not names:
        raise UserError(f"data.path: {root} holds no images ({', '.join(EXTENSIONS)}), at no depth")
    return root, names


def pictures(path: str) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """The name of each picture under a folder, and what reads it: uint8 [H, W, 3], at its own size."""
    root = paths.folder(path, "restore.files")
    if not (names := image_files(root)):
        raise UserError(f"restore.files: {paths.shown(root)} holds no images")
    return [(name, partial(read, root / name, None)) for name in names]


def image_files(root: Path) -> list[str]:
    """Sorted paths, relative to `root` and with slashes, of the images under it that are not hidden."""

    def unlisted(error: OSError) -> None:
        raise UserError(f"data.path: {error.filename} cannot be listed ({error.strerror})") from error

    found = []
    for folder, subfolders, files in os.walk(root, onerror=unlisted):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(found)


def decoded(files: list[Path], size: int, keep: bool) -> np.ndarray | None:
    """All files as uint8 [N, size, size, 3], or None unless `keep`; UserError names the first that is bad."""
    cache = np.empty((len(files), size, size, 3), np.uint8) if keep else None
    bad = []

    def attempt(path: Path) -> np.ndarray | UserError:
        try:
            return read(path, size)
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(
            pool.map(attempt, files), "reading images", len(files), unit="", leave=False, delay=2, disable=None
        )
        for i, result in enumerate(results):
            if isinstance(result, UserError):
                bad.append(result)
            elif keep:
                cache[i] = result
    if bad:
        raise UserError(str(bad[0]) + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")) from bad[0]
    return cache
