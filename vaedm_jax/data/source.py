"""What a data set is to the rest of the package: images to train on and images held out, in random access."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Images by index, for any thread: `[i]` is uint8 [S, S, 3]. An array [N, S, S, 3] is a source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Dataset:
    """A data set, its name as people say it, and its two sides; neither side is empty."""

    name: str
    train: Source
    test: Source


@dataclass(frozen=True)
class Lazy:
    """A source whose images are decoded whenever they are asked for: image i is `decode(items[i])`."""

    items: Sequence[Any]
    decode: Callable[[Any], np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.decode(self.items[index])


def split(keys: Sequence[str], held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to train on, and of those held out: a share of about `held_out`, in [0, 1).

    Images of one key stay together, and the side of a key depends on nothing but the key, so that images may
    come and go. One exception: the lowest hash is always held out and the highest never, lest a side be
    empty. Where all share one key, they serve as both sides.
    """
    digests = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys]
    place = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    held = ((place < held_out) | (place == place.min())) & (place != place.max())
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    return train, test if test.size else train
