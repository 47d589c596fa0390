"""Batches of a source. A batch is a pure function of the seed and its number, so there is no state to store."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from vaedm_jax.data import workers as processes
from vaedm_jax.data.dataset import Source
from vaedm_jax.errors import UserError
from vaedm_jax.runtime.memory import check_fits

if TYPE_CHECKING:
    import grain

THREADS = min(8, os.cpu_count() or 1)


def pipeline(source: Source, batch_size: int, seed: int, flip: bool) -> "grain.MapDataset":
    """Return endless batches: `[n]` is batch n, uint8 [B, S, S, 3], a function of only the seed and n.

    Every epoch has each image once, in a new order. A batch may begin in one epoch and end in the next.

    Args:
      flip: mirror images at random, about half of them.

    Raises:
      UserError: there are fewer images than a batch needs.
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
    """Return the batches start, start + 1, … of `pipeline`, which threads or processes prepare in advance.

    Args:
      shard: (k, n) for only the k-th of n equal slices of each batch, uint8 [B / n, S, S, 3].
      workers: the number of processes; 0 for threads.

    Raises:
      UserError: there are fewer images than a batch needs, or n does not divide the batch size.
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
    """Yield the elements in order; each of n processes prepares every n-th one and ends with the iteration."""
    import grain

    if not flags.FLAGS.is_parsed():  # Grain reads its own settings from there
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    # Send batches through pipes: containers have little shared memory, and a killed process would not free it.
    piped = grain.experimental.DatasetOptions(min_shm_size=2**62)
    one_thread = ds.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    ahead = one_thread.mp_prefetch(options, worker_init_fn=lambda *_: processes.begin())
    iterator = iter(grain.experimental.WithOptionsIterDataset(ahead, piped))
    try:
        yield processes.start_shielded(lambda: next(iterator))  # the first `next` starts the processes
        yield from iterator
    finally:
        iterator.close()


def preview(source: Source, n: int) -> np.ndarray:
    """Return n evenly spaced images, or all if there are fewer: uint8 [n, S, S, 3]. Neighbours are often alike."""
    n = min(n, len(source))
    return np.stack([source[i * len(source) // n] for i in range(n)])


def some(source: Source, n: int) -> np.ndarray:
    """Return n random images of a source, or all if n is 0, in a fixed random order: float32 [n, S, S, 3] in [0, 1].

    Raises:
      UserError: the images do not fit into memory.
    """
    chosen = np.random.default_rng(0).permutation(len(source))[: n or None]
    check_fits(f"{len(chosen):,} images of the data set", 4 * len(chosen) * np.asarray(source[0]).size)
    return np.stack([source[int(i)] for i in chosen]).astype(np.float32) / 255


def slices(source: Source, batch_size: int, count: int, seed: int, flip: bool) -> "grain.MapDataset":
    """Return the endless batches, each cut into `count` equal slices: slice k of batch n is `[n * count + k]`."""
    # Imported only here: with JAX before 0.11 the import prints a warning, which main.py has silenced by now.
    import grain

    if len(source) < batch_size:
        raise UserError(f"too few images for a batch: there are {len(source)}, and a batch needs {batch_size}")
    shuffled = grain.MapDataset.source(source).seed(seed).shuffle()
    endless = (shuffled.random_map(flip_at_random) if flip else shuffled).repeat()
    # An endless sequence has no remainder. Without drop_remainder, Grain rounds its length up, beyond what len() can
    # return.
    return endless.batch(batch_size // count, drop_remainder=True)


def flip_at_random(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror an image [H, W, C] from left to right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image
