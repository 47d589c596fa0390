"""Atomic writing of files: a file is either complete or unchanged.

Of several processes only one writes. The others call the same functions, which then do nothing.
"""

import csv
import io
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.storage.disk import writing
from vaedm_jax.storage.paths import shown

_writes = True


def disable_writing() -> None:
    """Let this process write no files and show no progress from now on, since another process does."""
    global _writes
    _writes = False


def is_writer() -> bool:
    """Return whether this process is the one that writes."""
    return _writes


def write_whole(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` through a temporary file, so that a kill leaves either the old file or the new one.

    Parent folders are created.

    Raises:
      UserError: there is a folder in place of the file.
    """
    if not is_writer():
        return
    path = Path(path)
    try:
        with replacing(path) as beside:
            beside.write_bytes(data)
    except IsADirectoryError as error:
        raise UserError(f"{shown(path)} is a folder, where a file is to be written; move or remove it") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the same folder, which is renamed to `path` if there is no error.

    The temporary file is created first, so that an error comes before the work. Its name is unique, since processes of
    several machines, which can have the same number, may write the same file. Parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    with writing(path, beside):
        beside.touch()
        yield beside
        os.replace(beside, path)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files, given by their paths in it, so that a kill leaves either nothing or all of it."""
    if not is_writer():
        return
    beside = path.with_name(f".{path.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for name, data in files.items():
            write_whole(beside / name, data)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_kept(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` as `write_whole` does, but first rename an existing file with other contents."""
    path = Path(path)
    if is_writer() and path.is_file() and path.read_bytes() != data:
        set_aside(path)
    write_whole(path, data)


def set_aside(*paths: Path) -> None:
    """Rename files or folders that exist, so that nothing overwrites them, and print their new names.

    `NAME.png` becomes `NAME_1.png`, for example. All get the same number, which is the first that is free for all.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if not there or not is_writer():
        return

    def numbered(path: Path, i: int) -> Path:
        stem, ending = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
        return path.with_name(f"{stem}_{i}{ending}")

    i = next(i for i in count(1) if not any(os.path.lexists(numbered(path, i)) for path in paths))
    for path in there:
        path.rename(numbered(path, i))
        print(f"note: {shown(path)} existed already and is now {shown(numbered(path, i))}", flush=True)


def remove(folder: Path) -> None:
    """Delete a folder with its contents."""
    if is_writer():
        shutil.rmtree(folder)


def write_arrays(path: Path | str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as a compressed `.npz` file, atomically."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_whole(path, data.getvalue())


def write_csv(path: Path, rows: Sequence[dict[str, Any]], keep: bool = False) -> None:
    """Write a table as CSV, atomically.

    Args:
      path: the file.
      rows: the rows, as {column: value}. A column that a row lacks is left empty.
      keep: rename an existing table with other contents first; see `write_kept`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(chain.from_iterable(rows))), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (write_kept if keep else write_whole)(path, text.getvalue().encode())
