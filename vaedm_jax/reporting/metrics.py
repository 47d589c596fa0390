"""The numbers of a training run: one JSON object a line, and the same for TensorBoard."""

import json
import math
import os
import time
from pathlib import Path

from tensorboardX import SummaryWriter

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.storage import parse_json
from vaedm_jax.storage.damage import read_bytes
from vaedm_jax.storage.writing import write_whole, writes

FILE = "metrics.jsonl"
MOST = 2**30  # bytes of it


class MetricWriter:
    """Appends scalars to FOLDER/metrics.jsonl and to the TensorBoard files in FOLDER/tb.

    A run that was killed and continues from its checkpoint of step k passes resume_step = k: the lines of
    later steps are dropped, since the run is about to write them again. 0 is a new run.
    Raises UserError if the lines that are there cannot be read.
    """

    def __init__(self, folder: Path | str, resume_step: int = 0):
        self._path, self._file = Path(folder, FILE), None
        if not writes():
            return
        kept = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        write_whole(self._path, b"".join(map(_encode, kept)))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

        board = Path(folder, "tb")
        board.mkdir(exist_ok=True)
        # tensorboardX names a file by the second: the suffix keeps a quick restart from overwriting it.
        suffix = f".{sum(1 for _ in board.iterdir())}"
        self._board = SummaryWriter(str(board), purge_step=resume_step + 1, flush_secs=5, filename_suffix=suffix)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds one line, {"step", "time" in seconds since 1970, ...scalars}, on disk when this returns.

        A value that is not finite is written as null. Raises RunError if the disk takes no more.
        """
        if self._file is None:
            return
        scalars = {name: float(value) for name, value in scalars.items()}
        line = _encode({"step": int(step), "time": time.time(), **scalars})
        try:
            written = os.write(self._file, line)  # one call: a kill leaves the line, or a torn last one
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror})") from error
        if written < len(line):
            raise RunError(f"{self._path}: cannot be written (no space is left)")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Puts the lines where the loss of the machine does not reach them: a bucket has a file once it is synced."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Waits until all is written. Calling it twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._board.close()


def read_metrics(folder: Path | str) -> list[dict[str, float]]:
    """The lines of FOLDER/metrics.jsonl in order, null as NaN; [] without the file.

    A torn last line is left out; a broken one anywhere else raises UserError.
    """
    path = Path(folder, FILE)
    texts = read_bytes(path, "file of metrics", MOST).splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text, {str: (float, None)})
            line["step"] = int(line["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(texts):
                break
            raise UserError(
                f'{path}, line {number}: must be a JSON object of numbers with a "step", is {text[:60]!r}'
            ) from error
        lines.append({name: math.nan if value is None else value for name, value in line.items()})
    return lines


def _encode(line: dict) -> bytes:
    # NaN and Infinity are no JSON: other readers would reject the whole file.
    strict = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    return json.dumps(strict).encode() + b"\n"
