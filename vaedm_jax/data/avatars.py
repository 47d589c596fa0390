"""Faces without end, by number: the first 8,192 of 32 x 32 come with the package, all others are drawn once.

A file of faces is an `.npz` with the pixels in blocks that are compressed by LZMA, what each face is, and what drew it.
"""

import json
import lzma
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vaedm_jax.data import faces, workers
from vaedm_jax.data.folder import CACHE_BYTES
from vaedm_jax.data.source import Dataset, Lazy, Source
from vaedm_jax.errors import UserError
from vaedm_jax.storage import Array, Damaged, parse_json, read_arrays
from vaedm_jax.storage.cache import user_cache
from vaedm_jax.storage.paths import path_of, regular_file

EMBEDDED = Path(__file__).with_name("avatars_32.npz")
SEEDS = {"train": 0, "test": 1}
SIZES = (32, 256)
BLOCK_BYTES = 4096 * 32 * 32 * 3  # of pixels that are compressed together
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**24}]  # the dictionary takes in a block
FEW = 256  # are drawn in this process, since others take a second to start
ABOUT = {"recipe": str, "size": int, "train": int, "test": int, "names": {str: [str]}, "attribution": [str]}
FORMS = {
    "about": Array(str),
    **{f"{side}_pixels": Array(np.uint8, (None,)) for side in SEEDS},
    **{f"{side}_ends": Array(np.int64, (None,)) for side in SEEDS},
    **{f"{side}_labels": Array(np.uint8, (None, len(faces.LABELS))) for side in SEEDS},
}


class Faces(NamedTuple):
    """A file of faces, still compressed.

    Attributes:
      about: the digest of what drew them, their size and numbers, the names of the labels, and whose work they are.
      blocks: of either side, the pixels of so many faces as a block takes. labels: of either side, uint8 [N, 5].
    """

    about: dict[str, Any]
    blocks: dict[str, list[bytes]]
    labels: dict[str, np.ndarray]


def load(n: int, size: int, held_out: float, archive: str = "") -> Dataset:
    """Return the first n faces of one seed, and as those held out a share of that of another seed, at least one face.

    Args:
      archive: the file to read them from, or to write them to where it is not there; empty: one in a cache.

    Raises:
      UserError: the size is not offered, the file is damaged or has others, or they have to be drawn and cannot be.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"data.image_size = {size}: avatars are drawn from {SIZES[0]} to {SIZES[1]} pixels")
    counts = {"train": n, "test": max(1, round(n * held_out))}
    path = path_of(archive, "data.archive") if archive else place(counts, size)
    if not path.exists():
        faces.require(f"{path} is not there; ")
        with written(path) as beside:
            save(beside, drawn(counts, size, os.cpu_count() or 1))
    found = read(regular_file(path, "data.archive"))
    refuse_others(path, found.about, counts, size)
    return Dataset("avatars", *(pixels(path, found, side, count) for side, count in counts.items()))


def place(counts: dict[str, int], size: int) -> Path:
    """Return the file in the package where it has as many, else one in a cache that is named after what is in it."""
    about = embedded().about
    if size == about["size"] and all(counts[side] <= about[side] for side in SEEDS):
        return EMBEDDED
    name = f"{counts['train']}_{counts['test']}_{size}_{faces.RECIPE}.npz"
    if (cache := user_cache()) is None:
        raise UserError("there is no folder of yours to keep drawn faces in; name a file (--config.data.archive=FILE)")
    return Path(cache) / "avatars" / name


@cache
def embedded() -> Faces:
    return read(EMBEDDED)


def sides(held_out: float) -> list[dict[str, np.ndarray]]:
    """Return the package's faces, as `load` splits them: of either side `image` [N, 32, 32, 3], and LABELS, [N]."""
    found = embedded()
    counts = {"train": found.about["train"], "test": max(1, round(found.about["train"] * held_out))}
    names = {label: np.array(found.about["names"][label]) for label in faces.LABELS}
    return [
        {label: names[label][found.labels[side][:n, k]] for k, label in enumerate(faces.LABELS)}
        | {"image": pixels(EMBEDDED, found, side, n)}
        for side, n in counts.items()
    ]


def read(path: Path) -> Faces:
    """Return what is in a file; `Damaged` where it is no file of faces."""
    arrays = read_arrays(path, FORMS)
    try:
        about = parse_json(arrays["about"], ABOUT)
        bounds = {side: [0, *arrays[f"{side}_ends"].tolist()] for side in SEEDS}
        data = {side: arrays[f"{side}_pixels"].tobytes() for side in SEEDS}
        if not SIZES[0] <= about["size"] <= SIZES[1]:
            raise ValueError(f"its size is {about['size']}")
        for side, ends in bounds.items():
            if len(ends) != 1 + -(-about[side] // block_of(about["size"])) or ends[-1] != len(data[side]):
                raise ValueError(f"the blocks of '{side}' are not as many as it says")
            if len(labels := arrays[f"{side}_labels"]) != about[side]:
                raise ValueError(f"it has {len(labels)} labels of '{side}'")
    except ValueError as error:
        raise Damaged(path, f"it is no file of avatars ({error})") from error
    blocks = {side: [data[side][a:b] for a, b in pairwise(ends)] for side, ends in bounds.items()}
    return Faces(about, blocks, {side: arrays[f"{side}_labels"] for side in SEEDS})


def refuse_others(path: Path, about: dict[str, Any], counts: dict[str, int], size: int) -> None:
    """UserError unless a file has what is asked for, drawn as it would be drawn here."""
    if about["recipe"] != faces.RECIPE:
        raise UserError(f"{path} has avatars that other versions have drawn ({about['recipe']}, not {faces.RECIPE})")
    if about["size"] != size:
        raise UserError(f"{path} has avatars of {about['size']} pixels, and data.image_size = {size}")
    for side, n in counts.items():
        if about[side] < n:
            raise UserError(f"{path} has {about[side]:,} avatars to {side}, and {n:,} are asked for; name a new file")


def pixels(path: Path, found: Faces, side: str, n: int) -> Source:
    """Return the first n faces of a side; on disk where they are too many for the memory."""
    size = found.about["size"]
    step, blocks = block_of(size), found.blocks[side][: -(-n // block_of(size))]

    def unpacked(block: bytes, count: int) -> np.ndarray:
        shape = (min(step, count), size, size, 3)
        try:
            data = lzma.LZMADecompressor().decompress(block, np.prod(shape).item() + 1)
            return np.frombuffer(data, np.uint8).reshape(shape)
        except (lzma.LZMAError, EOFError, ValueError) as error:
            raise Damaged(path, f"a block of '{side}' is damaged ({error})") from error

    whole = (found.about[side] - i * step for i in range(len(blocks)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(unpacked, blocks, whole)
        if n * size * size * 3 <= CACHE_BYTES:
            return np.concatenate(list(parts))[:n]
        return laid_out(path.with_suffix(f".{side}.npy"), parts, (found.about[side], size, size, 3), n)


def laid_out(path: Path, parts: Iterator[np.ndarray], shape: tuple[int, ...], n: int) -> Source:
    """Return the first n of what is written as it is into a file, once."""
    if not path.exists():
        with written(path) as beside:
            file, first = np.lib.format.open_memmap(beside, "w+", np.uint8, shape), 0
            for part in parts:
                file[first : first + len(part)] = part
                first += len(part)
            file.flush()
    return Lazy(range(n), Row(path))


class Row(NamedTuple):
    """Item i of an array on disk; the file is opened where it is read, since processes take a copy of this."""

    path: Path

    def __call__(self, index: int) -> np.ndarray:
        return np.array(mapped(self.path)[index])


@cache
def mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def block_of(size: int) -> int:
    """Return how many faces a block has."""
    return BLOCK_BYTES // (3 * size * size)


def drawn(counts: dict[str, int], size: int, processes: int) -> dict[str, Any]:
    """Return the arrays of a file with the first faces of either side, drawn by so many processes."""
    step = block_of(size)
    tasks = [(SEEDS[side], i, min(i + step, n), size) for side, n in counts.items() for i in range(0, n, step)]
    found = list(zip(tasks, made(tasks, processes), strict=True))
    names = {label: sorted({of[label] for _, (_, of_all) in found for of in of_all}) for label in faces.LABELS}
    about = {"recipe": faces.RECIPE, "size": size, **counts, "names": names, "attribution": faces.attribution()}
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for side, seed in SEEDS.items():
        mine = [result for task, result in found if task[0] == seed]
        labels = [[names[label].index(of[label]) for label in faces.LABELS] for _, of_all in mine for of in of_all]
        arrays[f"{side}_pixels"] = np.frombuffer(b"".join(block for block, _ in mine), np.uint8)
        arrays[f"{side}_ends"] = np.cumsum([len(block) for block, _ in mine])
        arrays[f"{side}_labels"] = np.array(labels, np.uint8)
    return arrays


def made(tasks: list[tuple[int, int, int, int]], processes: int) -> Iterator[tuple[bytes, list[dict[str, str]]]]:
    """Yield the blocks in order."""
    total = sum(last - first for _, first, last, _ in tasks)
    with tqdm(None, "drawing faces", total, unit="", leave=False, delay=2, disable=None) as bar:

        def told(results: Iterator) -> Iterator:
            for (_, first, last, _), result in zip(tasks, results, strict=True):
                bar.update(last - first)
                yield result

        if processes == 1 or total <= FEW:
            yield from told(map(block, tasks))
            return
        with workers.pool(min(processes, len(tasks))) as pool:
            futures = workers.started_apart(lambda: [pool.submit(block, task) for task in tasks])
            yield from told(future.result() for future in futures)


def block(task: tuple[int, int, int, int]) -> tuple[bytes, list[dict[str, str]]]:
    """Draw the faces from `first` to `last` of a seed: their pixels, compressed, and their labels."""
    seed, first, last, size = task
    images, labels = zip(*(faces.face(seed, i, size) for i in range(first, last)), strict=True)
    return lzma.compress(np.stack(images).tobytes(), filters=FILTERS), list(labels)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Lend a place beside a file, which becomes the file at the end. That it can be is tried first."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file as data.archive") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write the arrays of a file, whatever it is called."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
