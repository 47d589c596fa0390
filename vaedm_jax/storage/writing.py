"""Files that are either whole or not there. Of several processes one writes; the others call the same functions."""

import csv
import io
import os
import shutil
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from vaedm_jax.storage.disk import writing
from vaedm_jax.storage.paths import shown

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
    with writing(path, beside):
        beside.write_bytes(data)
        os.replace(beside, path)


def write_kept(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` as `write_whole` does; a file of other contents that is there gets another name."""
    path = Path(path)
    if writes() and path.is_file() and path.read_bytes() != data:
        set_aside(path)
    write_whole(path, data)


def set_aside(*paths: Path) -> None:
    """Give files or folders, as far as they are there, another name, the same for all: `NAME_1.png` for `NAME.png`.

    So what a later command writes replaces nothing; where the old things are now is printed.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if not there or not writes():
        return

    def numbered(path: Path, i: int) -> Path:
        stem, ending = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
        return path.with_name(f"{stem}_{i}{ending}")

    i = next(i for i in count(1) if not any(os.path.lexists(numbered(path, i)) for path in paths))
    for path in there:
        path.rename(numbered(path, i))
        print(f"note: what was {shown(path)} is {shown(numbered(path, i))} now", flush=True)


def remove(folder: Path) -> None:
    """Deletes a folder that is no longer needed."""
    if writes():
        shutil.rmtree(folder)


def write_arrays(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as a compressed `.npz`, whole."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())


def write_csv(path: Path, rows: Sequence[dict[str, Any]], keep: bool = False) -> None:
    """Write a table, whole; where a row has nothing in a column it is empty.

    With `keep`, another table that is there gets another name.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(chain.from_iterable(rows))), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (write_kept if keep else write_whole)(path, text.getvalue().encode())
