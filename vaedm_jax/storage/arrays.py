"""Arrays in `.npz` files that may come from anywhere: never pickled, and checked before they take memory."""

import math
import os
import zipfile
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from vaedm_jax.storage.damage import reading
from vaedm_jax.storage.paths import opened

WHAT = "file of arrays"
MOST = 2**30  # bytes of an array
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Array(NamedTuple):
    """What an array must be.

    Attributes:
      dtype: of NumPy; `str` for texts of any length, of which a single one is read as a str.
      shape: a number; a name, which stands for the same number in the whole file; or None for any number.
      finite: whether all of it must be.
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
    """Return the arrays in a file by their names, without others; `Damaged` where one is missing, or not as it must be.

    Args:
      optional: names of those that may be missing. sizes: what names in shapes stand for, as far as it is known.
      most: the largest number of bytes of an array.
    """
    known, found = dict(sizes or {}), {}
    with reading(path, WHAT), opened(path, WHAT) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        for name, form in forms.items():
            if (entry := f"{name}.npy") not in names and name in optional:
                continue
            if names.count(entry) != 1:
                raise ValueError(f"the array '{name}' is {'missing' if entry not in names else 'there twice'}")
            try:
                found[name] = read_entry(archive, archive.getinfo(entry), form, known, most)
            except ValueError as error:
                raise ValueError(f"'{name}' {error}") from error
    return found


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, form: Array, known: dict[str, int], most: int) -> Any:
    """Return an array; ValueError where it is not of that form. `known` is extended by what its shape tells."""
    if entry.flag_bits & 1 or entry.compress_type not in COMPRESSIONS:
        raise ValueError("is encrypted, or compressed in a way that is not known here")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"is of the unknown version {version}")
        shape, by_column, dtype = readers[version](file)
        check_form(shape, dtype, form, known)
        size = math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or size > most or size != entry.file_size - file.tell():
            raise ValueError(f"has the shape {shape} and {entry.file_size:,} bytes, which do not belong together here")
        data = file.read(size + 1)  # to the end of the file, where its sum is checked
    if len(data) != size:
        raise ValueError("is torn")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")
    if form.dtype is str and not shape:
        return array.item()
    if form.finite and dtype.kind in "fc" and not np.isfinite(array).all():
        raise ValueError("has numbers that are not finite")
    return array


def check_form(shape: tuple[int, ...], dtype: np.dtype, form: Array, known: dict[str, int]) -> None:
    """ValueError unless shape and type are those of the form."""
    fits = dtype.kind == "U" and dtype.isnative if form.dtype is str else dtype == form.dtype
    if not fits or dtype.hasobject:
        raise ValueError(f"is of the type {dtype}, not {np.dtype(form.dtype)}")
    wanted = tuple(known.get(side, side) if isinstance(side, str) else side for side in form.shape)
    if len(shape) != len(wanted) or any(a != b for a, b in zip(shape, wanted, strict=True) if isinstance(b, int)):
        raise ValueError(f"has the shape {shape}, not {wanted}".replace("None", "any"))
    for side, name in zip(shape, form.shape, strict=True):
        if isinstance(name, str) and known.setdefault(name, side) != side:
            raise ValueError(f"has the shape {shape}, not {form.shape}")
