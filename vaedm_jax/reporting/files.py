"""Files that are either whole or not there. Of several processes one writes; the others call the same functions."""

import io
import os
import shutil
from pathlib import Path

import numpy as np

_writes = True


def leave_to_another() -> None:
    """From here on this process writes no files and shows no progress: another does."""
    global _writes
    _writes = False


def writes() -> bool:
    """Whether this process is the one that writes."""
    return _writes


def write_whole(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` through a file beside it, so that a kill leaves the old file or the new one.

    The parents are created.
    """
    if not writes():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    os.replace(beside, path)


def remove(folder: Path) -> None:
    """Deletes a folder that is no longer needed."""
    if writes():
        shutil.rmtree(folder)


def write_arrays(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as a compressed `.npz`, whole."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())
