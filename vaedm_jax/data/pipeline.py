"""From a source to batches: a pure function of the seed and the batch's number, with no state to store."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from vaedm_jax.data import workers as processes
from vaedm_jax.data.source import Source
from vaedm_jax.errors import UserError
from vaedm_jax.runtime.memory import check_fits

if TYPE_CHECKING:
    import grain

THREADS = min(8, os.cpu_count() or 1)


def pipeline(source: Source, batch_size: int, seed: int, flip: bool) -> "grain.MapDataset":
    """Endless batches: `[n]` is batch n, uint8 [B, S, S, 3], a function of the seed and n alone.

    Every epoch has each image once, in an order of its own, and batches run on from one epoch into the next.
    With `flip`, about half of them are mirrored. UserError if there are fewer images than one batch takes.
    """
    return slices(source, batch_size, 1, seed, flip)


def batches(
    source: Source,
    batch_size: int,
    seed: int,
    flip: bool,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> Iterator[np.ndarray]:
    """Batches start, start + 1, … of `pipeline`, read ahead by threads, or by so many worker processes.

    With shard = (k, n), only the k-th of n equal slices of each: uint8 [B / n, S, S, 3]. UserError if there
    are fewer images than one batch takes, or n does not divide the batch size.
    """
    import grain

    index, count = shard
    if batch_size % count:
        raise UserError(f"a batch of {batch_size} images cannot be divided equally among {count} hosts")
    mine = slices(source, batch_size, count, seed, flip)[start * count + index :: count]
    if workers:
        return by_processes(mine, workers)
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)))


def by_processes(ds: "grain.MapDataset", workers: int) -> Iterator[np.ndarray]:
    """The elements in order: each of n processes makes every n-th. They end with the iteration."""
    import grain

    if not flags.FLAGS.is_parsed():  # Grain looks up settings of its own there
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    # Batches come through pipes: shared memory is scarce in containers, and what a kill leaves in it stays.
    piped = grain.experimental.DatasetOptions(min_shm_size=2**62)
    one_thread = ds.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    ahead = one_thread.mp_prefetch(options, worker_init_fn=lambda *_: processes.begin())
    iterator = iter(grain.experimental.WithOptionsIterDataset(ahead, piped))
    try:
        yield processes.started_apart(lambda: next(iterator))  # the processes start when the first element is asked for
        yield from iterator
    finally:
        iterator.close()


def preview(source: Source, n: int) -> np.ndarray:
    """n images at equal distances, since neighbours are often alike; fewer if there are fewer: uint8 [n, S, S, 3]."""
    n = min(n, len(source))
    return np.stack([source[i * len(source) // n] for i in range(n)])


def some(source: Source, n: int) -> np.ndarray:
    """n images from all over a source, or all of them where n is 0: float32 [n, S, S, 3] in [0, 1].

    Raises: UserError where the memory does not hold them.
    """
    chosen = np.random.default_rng(0).permutation(len(source))[: n or None]
    check_fits(f"{len(chosen):,} images of the data at once", 4 * len(chosen) * np.asarray(source[0]).size)
    return np.stack([source[int(i)] for i in chosen]).astype(np.float32) / 255


def slices(source: Source, batch_size: int, count: int, seed: int, flip: bool) -> "grain.MapDataset":
    """The endless batches, each cut into `count` equal parts: part k of batch n is `[n * count + k]`."""
    # Imported where it is used: beside JAX before 0.11 it warns while it is imported, which main.py silences later.
    import grain

    if len(source) < batch_size:
        raise UserError(f"too few images for a batch: {len(source)}, and a batch takes {batch_size}")
    shuffled = grain.MapDataset.source(source).seed(seed).shuffle()
    endless = (shuffled.random_map(mirrored) if flip else shuffled).repeat()
    # Nothing remains of an endless sequence, but in rounding its length up grain can exceed what len() returns.
    return endless.batch(batch_size // count, drop_remainder=True)


def mirrored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image[:, ::-1] if rng.random() < 0.5 else image
