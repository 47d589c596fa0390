"""Files that are either whole or not there."""

import io
import os
from pathlib import Path

import numpy as np


def write_whole(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` through a file beside it, so that a kill leaves the old file or the new one.

    The parents are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    os.replace(beside, path)


def write_arrays(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as a compressed `.npz`, whole."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())
