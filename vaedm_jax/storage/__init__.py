"""Files on disk: paths as users write them, and one reader for each kind of file. Readers trust no content."""

from vaedm_jax.storage.arrays import Array, read_arrays
from vaedm_jax.storage.damage import Damaged, reading
from vaedm_jax.storage.json_file import check_form, parse_json, read_json
from vaedm_jax.storage.png import read_png
from vaedm_jax.storage.tensors import Tensors, read_tensors

__all__ = [
    "Array",
    "Damaged",
    "Tensors",
    "check_form",
    "parse_json",
    "read_arrays",
    "read_json",
    "read_png",
    "read_tensors",
    "reading",
]
