"""A writer of `.safetensors` files, and a reader for those of unknown origin, which checks before it reads a tensor."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vaedm_jax.storage.damage import Damaged, reading
from vaedm_jax.storage.paths import regular_file, shown

WHAT = ".safetensors file"
TYPES = ("BF16", "F16", "F32", "F64")  # the types that can be read; they are converted to float32


class Tensors:
    """An opened `.safetensors` file.

    Attributes:
      metadata: the strings that are stored with the tensors.
      shapes: the shape of every tensor, by name.
    """

    def __init__(self, path: str | os.PathLike, file: Any):
        self.path, self.file = path, file
        self.metadata: dict[str, str] = file.metadata() or {}
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}

    def read(self, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Return all tensors as float32.

        Args:
          wanted: the shape of every tensor, by name. The file must have exactly these tensors.

        Raises:
          Damaged: names, shapes or types differ, or a number is not finite.
        """
        for name in {**wanted, **self.shapes}:
            has, should = self.shapes.get(name), wanted.get(name)
            if has != should:
                here = "is missing" if has is None else f"is {list(has)}"
                right = "there should be none of this name" if should is None else f"it should be {list(should)}"
                raise Damaged(self.path, f"'{shown(name)}' {here}; {right}")
        return {name: self.tensor(name) for name in wanted}

    def tensor(self, name: str) -> np.ndarray:
        """Return one tensor as float32; raise `Damaged` if its type is unsupported or a number is not finite."""
        # A float64 that is too large for float32 becomes infinite, and is refused below.
        with reading(self.path, WHAT), np.errstate(over="ignore"):
            kind = self.file.get_slice(name).get_dtype()
            if kind not in TYPES:
                raise Damaged(self.path, f"'{shown(name)}' is of the type {kind}; it should be {' or '.join(TYPES)}")
            array = self.file.get_tensor(name).astype(np.float32)
        if not np.isfinite(array).all():
            raise Damaged(self.path, f"'{shown(name)}' has numbers that are not finite")
        return array


def read_tensors(path: str | os.PathLike) -> Tensors:
    """Open a `.safetensors` file; raise `Damaged` if it is not valid."""
    with reading(path, WHAT):
        return Tensors(path, safetensors.safe_open(regular_file(path, WHAT), "numpy"))


def encode_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return tensors and strings as the content of a `.safetensors` file."""
    return safetensors.numpy.save({n: np.asarray(a, order="C") for n, a in tensors.items()}, dict(metadata))
