"""The metrics of a training run: a file with one JSON object per line, and boards."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.reporting.boards import Board, TensorBoard, WeightsAndBiases
from vaedm_jax.storage import parse_json
from vaedm_jax.storage.damage import read_bytes
from vaedm_jax.storage.writing import is_writer, write_whole

FILE = "metrics.jsonl"
MOST = 2**30  # bytes of the file


class MetricWriter:
    """A writer that appends scalars to FOLDER/metrics.jsonl, to the TensorBoard files in FOLDER/tb and to other boards.

    Args:
      resume_step: the step of the checkpoint from which a run continues, or 0 for a new run. The lines of later steps
        are dropped, since the run will write them again.
      wandb: the project of Weights & Biases; "" for none.
      config: the settings that such a project shows.

    Raises:
      UserError: the lines that exist cannot be read, or the project cannot be opened.
    """

    def __init__(self, folder: Path | str, resume_step: int = 0, wandb: str = "", config: dict[str, Any] | None = None):
        self._path, self._file = Path(folder, FILE), None
        if not is_writer():
            return
        kept = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        write_whole(self._path, b"".join(map(_encode, kept)))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

        self._boards: list[Board] = [TensorBoard(Path(folder, "tb"), resume_step)]
        if wandb:
            self._boards.append(WeightsAndBiases(wandb, Path(folder), config or {}))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Append one line, {"step", "time" in seconds since 1970, ...scalars}, which survives a kill of the process.

        Values that are not finite are written as null.

        Raises:
          RunError: the file cannot be written, for example because the disk is full.
        """
        if self._file is None:
            return
        scalars = {name: float(value) for name, value in scalars.items()}
        line = _encode({"step": int(step), "time": time.time(), **scalars})
        try:
            written = os.write(self._file, line)  # a single call, so that a kill can tear only the last line
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror})") from error
        if written < len(line):
            raise RunError(f"{self._path}: cannot be written (no space is left)")
        for board in self._boards:
            board.write(step, scalars)

    def sync(self) -> None:
        """Flush the lines to storage, so that they survive the loss of the machine. A bucket has only synced files."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Close the files when all is written. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            for board in self._boards:
                board.close()


def read_metrics(folder: Path | str) -> list[dict[str, float]]:
    """Return the lines of FOLDER/metrics.jsonl in order, with null as NaN; [] if the file does not exist.

    A torn last line is left out.

    Raises:
      UserError: another line is broken.
    """
    path = Path(folder, FILE)
    texts = read_bytes(path, "metrics file", MOST).splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text, {str: (float, None)})
            line["step"] = int(line["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(texts):
                break
            raise UserError(
                f'{path}, line {number}: it must be a JSON object of numbers with a "step", but is {text[:60]!r}'
            ) from error
        lines.append({name: math.nan if value is None else value for name, value in line.items()})
    return lines


def _encode(line: dict) -> bytes:
    """Return a line as strict JSON."""
    # NaN and Infinity are not valid JSON, so other readers would reject the whole file.
    strict = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    return json.dumps(strict).encode() + b"\n"
