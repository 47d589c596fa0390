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
    """A data set, its name as people say it, and its two sides; neither side is empty.

    Attributes:
      place: the folder that it was read from; empty for one that is known by its name.
      digest: tells the files in the folder from others; empty where they are not looked at.
    """

    name: str
    train: Source
    test: Source
    place: str = ""
    digest: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its images from others, and where they are; see `rundir.same_images`."""
        sides = {"train": fingerprint(self.train), "held_out": fingerprint(self.test)}
        return sides | {"files": self.digest, "folder": self.place}


def fingerprint(source: Source) -> dict[str, int | str]:
    """What tells the images of a source from others: their number, size, and a digest of 64 of them."""
    chosen = np.stack([source[int(i)] for i in np.linspace(0, len(source) - 1, 64)])
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()[:16]
    return {"images": len(source), "image_size": chosen.shape[1], "content": digest}


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
