"""Reading of files of torch.save without PyTorch, and without running code from the file.

Such a file is a pickle whose tensors refer to storages beside it. Since PyTorch 1.6 the pickle and the storages are
entries of a zip file. Before that the storages followed the pickle in the same file. Both formats are in
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.

A pickle can only call what its reader returns for a name. The reader in `pickles` knows the few names of tensors and
containers. All other names stand for a class that does nothing.
"""

import io
import math
import os
import re
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.interop import pickles

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of the old format
PROTOCOL = 1001  # the second pickle
KINDS = dict(Double="f8", Float="f4", Half="f2", BFloat16=ml_dtypes.bfloat16, ComplexDouble="c16", ComplexFloat="c8")
KINDS |= dict(Long="i8", Int="i4", Short="i2", Char="i1", Byte="u1", Bool="?", Untyped="u1")
# The modules in which versions of PyTorch Lightning define AttributeDict, the dict with the hyper-parameters.
LIGHTNING = "pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data", "lightning.fabric.utilities.data"
UNVIEWED = [], [None]  # the end of a persistent id, if the storage is not a view of another
DTYPES = {f"{kind}Storage": np.dtype(dtype) for kind, dtype in KINDS.items()}


class _Storage(NamedTuple):
    """The bytes of a storage and their dtype."""

    dtype: np.dtype
    data: bytes | bytearray


class _Tensors:
    """The functions that a pickle calls to make arrays of the tensors in a file.

    A pickle names the type of a storage, but never gets a dtype as an object.

    Args:
      size: the size of the file in bytes.
      fetch: (key, nbytes) -> the bytes of a storage, or a buffer that they are read into later.

    Attributes:
      names: the functions that a pickle may call, by name.
      storages: the storages that the pickle has asked for, by key.
    """

    def __init__(self, size: int, fetch: Callable[[str, int], bytes | bytearray]):
        self.size = self.unclaimed = size
        self.fetch = fetch
        self.storages: dict[str, _Storage] = {}
        self.names = {
            "collections.OrderedDict": pickles.make_ordered_dict,
            "builtins.set": pickles.make_set,
            "__builtin__.set": pickles.make_set,
            "torch.Size": pickles.make_tuple,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": self.parameter,
            "torch._utils._rebuild_parameter_with_state": self.parameter,
            **{f"{module}.AttributeDict": pickles.make_ordered_dict for module in LIGHTNING},
        }

    def stored(self, pid: Any) -> Any:
        """Return the object that a persistent id stands for.

        Raises:
          ValueError: it stands for no known kind of storage.
        """
        match pid:
            case ("module", container, *_):  # the old format may store a class together with its source
                return container
            case ("storage", type(__name__=kind), str(key), _, int(numel), *view) if (
                kind in DTYPES and view in UNVIEWED
            ):
                if key not in self.storages:
                    self.storages[key] = self.storage(DTYPES[kind], key, numel)
                return self.storages[key]
            case ("storage", type(__name__=kind), *_):
                raise ValueError(f"unknown storage {kind[:60]}")
        raise ValueError("unknown storage")

    def storage(self, dtype: np.dtype, key: str, numel: int) -> _Storage:
        """Return a storage of `numel` elements; ValueError if all storages together are larger than the file."""
        nbytes = numel * dtype.itemsize
        self.unclaimed -= nbytes
        if nbytes < 0 or self.unclaimed < 0:
            raise ValueError("its storages would be larger than the file")
        return _Storage(dtype, self.fetch(key, nbytes))

    def tensor(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        """Return a tensor as a read-only view of its storage.

        An expanded tensor (stride 0) may have more elements than its storage, but no more than the file has bytes.

        Raises:
          ValueError: the arguments do not describe a tensor inside the storage.
        """
        if not isinstance(storage, _Storage) or not all(isinstance(shape, tuple) for shape in (size, stride)):
            raise ValueError("a tensor is not made of a storage, a size and strides")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and n < 2**63 for n in numbers):
            raise ValueError("the size and the strides of a tensor do not fit each other")
        dtype, data = storage
        if min(numbers) < 0 or math.prod(size) > self.size:
            raise ValueError(f"a tensor has the size {size}, the strides {stride} and the offset {offset}")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= len(data) // dtype.itemsize:
            raise ValueError(f"a tensor of size {size} reaches beyond its storage")
        array = np.ndarray(size, dtype, data, offset * dtype.itemsize, [step * dtype.itemsize for step in stride])
        array.flags.writeable = False
        return array

    def parameter(self, data: np.ndarray, *_: Any) -> np.ndarray:
        """Return a parameter as the array of its tensor."""
        return data


def _read_zip(file: BinaryIO, size: int) -> Any:
    """Return the object in a file of the zip format."""
    with zipfile.ZipFile(file) as archive:
        (folder,) = (m[1] for name in archive.namelist() if (m := re.fullmatch(r"([^/]+/)data\.pkl", name)))

        def entry(name: str) -> bytes:
            if archive.getinfo(folder + name).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed; torch.save does not compress")
            return archive.read(folder + name)

        def fetch(key: str, nbytes: int) -> bytes:
            data = entry(f"data/{key}")
            if len(data) != nbytes:
                raise ValueError(f"storage {key} has {len(data)} bytes, not {nbytes}")
            return data

        if folder + "byteorder" in archive.namelist() and entry("byteorder") != b"little":
            raise ValueError("its numbers are big-endian; only little-endian files can be read")
        tensors, pickled = _Tensors(size, fetch), entry("data.pkl")
        return pickles.Reader(io.BytesIO(pickled), len(pickled), tensors.names, tensors.stored).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Return the object in a file of the old format."""
    tensors = _Tensors(size, lambda key, nbytes: bytearray(nbytes))
    reader = pickles.Reader(file, size, tensors.names, tensors.stored)
    try:
        begun = [reader.load(), reader.load()] == [MAGIC, PROTOCOL]
    except Exception:  # for example, in a text file
        begun = False
    if not begun:
        raise ValueError("it does not start with the header of such a file")
    if not reader.load()["little_endian"]:
        raise ValueError("its numbers are big-endian; only little-endian files can be read")
    found, keys = reader.load(), reader.load()
    if not isinstance(keys, list) or {pickles.check_key(key) for key in keys} != set(tensors.storages):
        raise ValueError("the storages after the pickle are not those that it refers to")
    for key in keys:
        dtype, data = tensors.storages[key]
        numel = int.from_bytes(file.read(8), "little")
        if numel * dtype.itemsize != len(data) or file.readinto(data) != len(data):
            raise ValueError(f"storage {key} is incomplete")
    return found


def read(path: str | os.PathLike) -> Any:
    """Return the object that torch.save wrote to `path`, with arrays in place of tensors and parameters.

    Dicts, lists, tuples, sets, numbers and strings are returned as they were saved; an OrderedDict becomes a dict. All
    other objects become a Placeholder or a subclass of it. The arrays are read-only, and share memory as the tensors
    did.

    Raises:
      UserError: the file is missing, truncated, big-endian, or not a file of torch.save.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.peek(4)[:4] == b"PK\x03\x04"
            return (_read_zip if zipped else _read_legacy)(file, os.fstat(file.fileno()).st_size)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "this is a folder"
        raise UserError(f"{path}: {what}; it should be a file that torch.save wrote") from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path}: cannot be read as a file of torch.save (it is truncated: its end is missing)"
        ) from error
    except Exception as error:  # a damaged pickle can raise any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a file of torch.save ({reason})") from error
