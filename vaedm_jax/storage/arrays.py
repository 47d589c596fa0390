"""A reader for `.npz` files of unknown origin: it never unpickles, and checks sizes before it allocates memory."""

import math
import os
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vaedm_jax.storage.damage import reading
from vaedm_jax.storage.paths import opened

WHAT = ".npz file"
MOST = 2**30  # bytes of an array
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Array(NamedTuple):
    """The dtype and the shape that an array must have.

    Attributes:
      dtype: the NumPy dtype; or `str` for strings of any length. A scalar string is returned as a `str`.
      shape: for each axis a size; a name, which stands for one size in the whole file; or None for any size.
      finite: whether all values must be finite.
    """

    dtype: Any
    shape: tuple[int | str | None, ...] = ()
    finite: bool = True


def read_arrays(
    path: str | os.PathLike,
    forms: Mapping[str, Array],
    optional: Collection[str] = (),
    sizes: Mapping[str, int] | None = None,
    most: int = MOST,
) -> dict[str, Any]:
    """Return the arrays of a file that are named in `forms`, by name.

    Args:
      path: the `.npz` file.
      forms: the form of each array. Other arrays in the file are not read.
      optional: the names of arrays that may be missing.
      sizes: the sizes that names in shapes stand for, as far as they are known.
      most: the largest size of an array in bytes.

    Raises:
      Damaged: the file cannot be read, an array is missing, or an array has another form.
    """
    known, found = dict(sizes or {}), {}
    with reading(path, WHAT), opened(path, WHAT) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        for name, form in forms.items():
            if (entry := f"{name}.npy") not in names and name in optional:
                continue
            if names.count(entry) != 1:
                raise ValueError(f"the array '{name}' is {'missing' if entry not in names else 'stored twice'}")
            try:
                found[name] = read_entry(archive, archive.getinfo(entry), form, known, most)
            except ValueError as error:
                raise ValueError(f"'{name}' {error}") from error
    return found


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, form: Array, known: dict[str, int], most: int) -> Any:
    """Return one array of an archive.

    Args:
      archive: the opened file.
      entry: the array's entry in it.
      form: the form that the array must have.
      known: the sizes that names in shapes stand for. Names that the array's shape defines are added.
      most: the largest size of the array in bytes.

    Raises:
      ValueError: the array cannot be read or has another form. The message continues a sentence about the array.
    """
    if entry.flag_bits & 1 or entry.compress_type not in COMPRESSIONS:
        raise ValueError("is encrypted, or compressed by an unsupported method")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"has the unsupported format version {version}")
        shape, by_column, dtype = readers[version](file)
        check_form(shape, dtype, form, known)
        size = math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or size > most or size != entry.file_size - file.tell():
            raise ValueError(f"has the shape {shape} and {entry.file_size:,} bytes, which differ or exceed {most:,}")
        data = file.read(size + 1)  # one byte more, since zipfile checks the CRC at the end
    if len(data) != size:
        raise ValueError("is truncated")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    if form.dtype is str and not shape:
        return array.item()
    if form.finite and dtype.kind in "fc" and not np.isfinite(array).all():
        raise ValueError("has numbers that are not finite")
    return array


def check_form(shape: tuple[int, ...], dtype: np.dtype, form: Array, known: dict[str, int]) -> None:
    """Raise ValueError unless shape and dtype fit the form; add to `known` the sizes that its names stand for."""
    fits = dtype.kind == "U" and dtype.isnative if form.dtype is str else dtype == form.dtype
    if not fits or dtype.hasobject:
        raise ValueError(f"is of the type {dtype}, not {np.dtype(form.dtype)}")
    wanted = tuple(known.get(side, side) if isinstance(side, str) else side for side in form.shape)
    if len(shape) != len(wanted) or any(a != b for a, b in zip(shape, wanted, strict=True) if isinstance(b, int)):
        raise ValueError(f"has the shape {shape}, not {wanted}".replace("None", "any"))
    for side, name in zip(shape, form.shape, strict=True):
        if isinstance(name, str) and known.setdefault(name, side) != side:
            raise ValueError(f"has the shape {shape}, not {form.shape}")
