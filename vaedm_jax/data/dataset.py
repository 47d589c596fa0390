"""The interface of a data set: images for training and images held out, both with random access."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Images by index: `[i]` is uint8 [S, S, 3]. An array [N, S, S, 3] is a source. All sources are thread-safe."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Dataset:
    """A data set with images for training and images held out.

    Attributes:
      name: the name for people.
      train: the images to train on, at least one.
      test: the images held out, at least one.
      place: the folder that the data set was read from; empty for a data set with a name of its own.
      digest: a digest of the files in the folder; empty if there is no folder.
    """

    name: str
    train: Source
    test: Source
    place: str = ""
    digest: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the images, and their folder; see `runs.identity.same_images`."""
        sides = {"train": fingerprint(self.train), "held_out": fingerprint(self.test)}
        return sides | {"files": self.digest, "folder": self.place}


def fingerprint(source: Source) -> dict[str, int | str]:
    """Return what identifies the images of a source: their number, their size and a digest of 64 of them."""
    chosen = np.stack([source[int(i)] for i in np.linspace(0, len(source) - 1, 64)])
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()[:16]
    return {"images": len(source), "image_size": chosen.shape[1], "content": digest}


@dataclass(frozen=True)
class Lazy:
    """A source that decodes an image whenever it is read: image i is `decode(items[i])`."""

    items: Sequence[Any]
    decode: Callable[[Any], np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.decode(self.items[index])


def split(keys: Sequence[str], held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images to train on and of the images held out.

    Images with the same key are on the same side. The side depends only on a hash of the key, so it stays the same if
    other images are added or removed. There is one exception, so that no side is empty: the key with the lowest hash
    is always held out, and the one with the highest hash never. If all images have the same key, all are on both sides.

    Args:
      held_out: about this share of the keys is held out, in [0, 1).
    """
    digests = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys]
    place = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    held = ((place < held_out) | (place == place.min())) & (place != place.max())
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    return train, test if test.size else train
