"""The data source `avatars`: any number of cartoon faces, each a function of a seed and an index.

The package includes the first 8,192 faces for training at 32 x 32. All others are drawn once and kept in a file.
A file of faces is an `.npz` with the pixels in blocks compressed by LZMA, the labels of each face, and a description
of the program that drew them.
"""

import json
import lzma
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vaedm_jax.data import faces, workers
from vaedm_jax.data.dataset import Dataset, Lazy, Source
from vaedm_jax.data.folder import CACHE_BYTES
from vaedm_jax.errors import UserError
from vaedm_jax.storage import Array, Damaged, parse_json, read_arrays
from vaedm_jax.storage.arrays import MOST
from vaedm_jax.storage.cache import user_cache
from vaedm_jax.storage.disk import full_disk
from vaedm_jax.storage.paths import regular_file, resolve_path
from vaedm_jax.storage.writing import replacing

EMBEDDED = Path(__file__).with_name("avatars_32.npz")
SEEDS = {"train": 0, "test": 1}
SIZES = (32, 256)
BLOCK_BYTES = 4096 * 32 * 32 * 3  # bytes of pixels that are compressed together
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**24}]  # a block fits into the dictionary
FEW = 256  # up to so many faces are drawn in this process, since other processes take a second to start
ABOUT = {"recipe": str, "size": int, "train": int, "test": int, "names": {str: [str]}, "attribution": [str]}
FORMS = {
    "about": Array(str),
    **{f"{side}_pixels": Array(np.uint8, (None,)) for side in SEEDS},
    **{f"{side}_ends": Array(np.int64, (None,)) for side in SEEDS},
    **{f"{side}_labels": Array(np.uint8, (None, len(faces.LABELS))) for side in SEEDS},
}


class Faces(NamedTuple):
    """The content of a file of faces, with the pixels still compressed.

    Attributes:
      about: the digest of the recipe (`faces.RECIPE`), the size, the number of faces of each side, the names of the
        labels, and the attribution of the styles.
      blocks: the compressed pixels of each side, `block_length` faces in a block.
      labels: the labels of each side, uint8 [N, 5].
    """

    about: dict[str, Any]
    blocks: dict[str, list[bytes]]
    labels: dict[str, np.ndarray]


def load(n: int, size: int, held_out: float, archive: str = "") -> Dataset:
    """Return the first n faces of the training seed, and n * held_out faces (at least one) of the test seed.

    Args:
      archive: the file to read the faces from. If it does not exist, they are drawn and written to it. If empty, the
        file of the package or a file in the cache is used.

    Raises:
      UserError: the size is out of range, the file is damaged or has other faces, or the faces cannot be drawn.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"data.image_size = {size}: avatars have {SIZES[0]} to {SIZES[1]} pixels")
    counts = {"train": n, "test": max(1, round(n * held_out))}
    path = resolve_path(archive, "data.archive") if archive else default_path(counts, size)
    if not path.exists():
        faces.require(f"{path} does not exist; ")
        with writable(path) as beside:
            save(beside, draw(counts, size, os.cpu_count() or 1))
    found = read(path)
    check_file(path, found.about, counts, size)
    return Dataset("avatars", *(pixels(path, found, side, count) for side, count in counts.items()))


def default_path(counts: dict[str, int], size: int) -> Path:
    """Return the file of the package if it has enough faces, else a file in the cache, named after its content."""
    about = embedded().about
    if size == about["size"] and all(counts[side] <= about[side] for side in SEEDS):
        return EMBEDDED
    name = f"{counts['train']}_{counts['test']}_{size}_{faces.RECIPE}.npz"
    if (cache := user_cache()) is None:
        raise UserError("no cache directory for the drawn faces; name a file (--config.data.archive=FILE)")
    return Path(cache) / "avatars" / name


@cache
def embedded() -> Faces:
    """Return the faces of the package."""
    return read(EMBEDDED)


def sides(held_out: float) -> list[dict[str, np.ndarray]]:
    """Return the faces of the package, split as in `load`: for each side, `image` [N, 32, 32, 3] and the LABELS [N]."""
    found = embedded()
    counts = {"train": found.about["train"], "test": max(1, round(found.about["train"] * held_out))}
    names = {label: np.array(found.about["names"][label]) for label in faces.LABELS}
    return [
        {label: names[label][found.labels[side][:n, k]] for k, label in enumerate(faces.LABELS)}
        | {"image": pixels(EMBEDDED, found, side, n)}
        for side, n in counts.items()
    ]


def read(path: Path) -> Faces:
    """Return the content of a file; raise `Damaged` if it is not a file of faces."""
    # The pixels are compressed already, so they take about as much memory as the file takes on disk.
    most = max(MOST, 2 * regular_file(path, "data.archive").stat().st_size)
    arrays = read_arrays(path, FORMS, most=most)
    try:
        about = parse_json(arrays["about"], ABOUT)
        bounds = {side: [0, *arrays[f"{side}_ends"].tolist()] for side in SEEDS}
        data = {side: arrays[f"{side}_pixels"].tobytes() for side in SEEDS}
        if not SIZES[0] <= about["size"] <= SIZES[1]:
            raise ValueError(f"the size is {about['size']}")
        for side, ends in bounds.items():
            if len(ends) != 1 + -(-about[side] // block_length(about["size"])) or ends[-1] != len(data[side]):
                raise ValueError(f"the number of blocks of '{side}' is wrong")
            if len(labels := arrays[f"{side}_labels"]) != about[side]:
                raise ValueError(f"'{side}' has {about[side]} faces and {len(labels)} labels")
    except ValueError as error:
        raise Damaged(path, f"not a file of avatars ({error})") from error
    blocks = {side: [data[side][a:b] for a, b in pairwise(ends)] for side, ends in bounds.items()}
    return Faces(about, blocks, {side: arrays[f"{side}_labels"] for side in SEEDS})


def check_file(path: Path, about: dict[str, Any], counts: dict[str, int], size: int) -> None:
    """Raise UserError unless a file has enough faces of this size, drawn by the recipe of this version."""
    if about["recipe"] != faces.RECIPE:
        raise UserError(
            f"{path} has avatars drawn by other versions ({about['recipe']}, not {faces.RECIPE}); name a new file"
        )
    if about["size"] != size:
        raise UserError(f"{path} has avatars of {about['size']} pixels, but data.image_size = {size}; name a new file")
    for side, n in counts.items():
        if about[side] < n:
            raise UserError(f"{path} has {about[side]:,} avatars for '{side}', but {n:,} are needed; name a new file")


def pixels(path: Path, found: Faces, side: str, n: int) -> Source:
    """Return the first n faces of a side: an array, or a file on disk if they take more than CACHE_BYTES."""
    if n * found.about["size"] ** 2 * 3 > CACHE_BYTES:
        return Lazy(range(n), Row(uncompressed(path, found, side)))
    return np.concatenate(list(decompress(path, found, side, n)))[:n]


def decompress(path: Path, found: Faces, side: str, n: int) -> Iterator[np.ndarray]:
    """Yield the blocks that have the first n faces of a side, uint8 [N, S, S, 3]; few of them are in memory at once."""
    size, cores = found.about["size"], os.cpu_count() or 1
    step = block_length(size)

    def read_block(i: int) -> np.ndarray:
        shape = (min(step, found.about[side] - i * step), size, size, 3)
        try:
            data = lzma.LZMADecompressor().decompress(found.blocks[side][i], np.prod(shape).item() + 1)
            return np.frombuffer(data, np.uint8).reshape(shape)
        except (lzma.LZMAError, EOFError, ValueError) as error:
            raise Damaged(path, f"a block of '{side}' is damaged ({error})") from error

    blocks = range(-(-n // step))
    with ThreadPoolExecutor(cores) as pool:
        for first in blocks[::cores]:
            yield from pool.map(read_block, blocks[first : first + cores])


def uncompressed(path: Path, found: Faces, side: str) -> Path:
    """Return the file of all faces of a side, uncompressed, beside `path`. It is written if it does not exist.

    Its name says what is in it, so that it is not used for other faces if `path` is replaced.
    """
    size, n = found.about["size"], found.about[side]
    file = path.with_name(f"{path.stem}.{side}_{n}_{size}_{found.about['recipe']}.npy")
    if not file.exists():
        # Written in order, and not through a memory map, where a full disk would kill the process by a signal.
        with writable(file) as beside, beside.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, size, size, 3)}
            np.lib.format.write_array_header_1_0(out, header)
            out.writelines(decompress(path, found, side, n))
    return file


class Row(NamedTuple):
    """A function that returns item i of an array on disk.

    It has only the path, so that it can be sent to another process. Each process opens the file itself.
    """

    path: Path

    def __call__(self, index: int) -> np.ndarray:
        return np.array(open_mapped(self.path)[index])


@cache
def open_mapped(path: Path) -> np.ndarray:
    """Open an array on disk, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def block_length(size: int) -> int:
    """Return the number of faces in a block."""
    return BLOCK_BYTES // (3 * size * size)


def draw(counts: dict[str, int], size: int, processes: int) -> dict[str, Any]:
    """Draw the first faces of each side in parallel, and return the arrays of a file of faces."""
    step = block_length(size)
    tasks = [(SEEDS[side], i, min(i + step, n), size) for side, n in counts.items() for i in range(0, n, step)]
    found = list(zip(tasks, draw_blocks(tasks, processes), strict=True))
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


def draw_blocks(tasks: list[tuple[int, int, int, int]], processes: int) -> Iterator[tuple[bytes, list[dict[str, str]]]]:
    """Yield the result of `draw_block` for each task, in order."""
    total = sum(last - first for _, first, last, _ in tasks)
    with tqdm(None, "drawing faces", total, unit="", leave=False, delay=2, disable=None) as bar:

        def with_progress(results: Iterator) -> Iterator:
            for (_, first, last, _), result in zip(tasks, results, strict=True):
                bar.update(last - first)
                yield result

        if processes == 1 or total <= FEW:
            yield from with_progress(map(draw_block, tasks))
            return
        with workers.pool(min(processes, len(tasks))) as pool:
            futures = workers.start_shielded(lambda: [pool.submit(draw_block, task) for task in tasks])
            yield from with_progress(future.result() for future in futures)


def draw_block(task: tuple[int, int, int, int]) -> tuple[bytes, list[dict[str, str]]]:
    """Draw the faces from `first` up to but not including `last` of a seed; return compressed pixels and labels.

    Args:
      task: (seed, first, last, size).
    """
    seed, first, last, size = task
    images, labels = zip(*(faces.face(seed, i, size) for i in range(first, last)), strict=True)
    return lzma.compress(np.stack(images).tobytes(), filters=FILTERS), list(labels)


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Yield a temporary path, as `replacing` does; raise UserError if the file cannot be written."""
    try:
        with replacing(path) as beside:
            yield beside
    except OSError as error:
        if full_disk(error):
            raise
        raise UserError(
            f"{path} cannot be written ({error.strerror}); name another file with --config.data.archive=FILE"
        ) from error


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write the arrays of a file of faces; the name may have any suffix."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
