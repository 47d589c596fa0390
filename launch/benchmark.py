"""Measure programs of this package and of PyTorch side by side, in processes that take turns.

    python launch/benchmark.py [--out=DIR] [--only=TEXT] [--rounds=7]

A cell is a program, a network, a batch and a precision. All backends of a cell are prepared one after another. Then
each runs for about a second in turn, for several rounds. A figure is the median of all its runs, so that a machine that
becomes slower or faster during a cell changes all backends alike.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKERS = {
    "jax": (ROOT / ".venv" / "bin" / "python", ROOT / "launch" / "bench_jax.py"),
    "flax": (ROOT / ".venv" / "bin" / "python", ROOT / "launch" / "bench_jax.py"),
    "torch": (ROOT / ".venv-torch" / "bin" / "python", ROOT / "launch" / "bench_torch.py"),
    "torch.compile": (ROOT / ".venv-torch" / "bin" / "python", ROOT / "launch" / "bench_torch.py"),
}
TURN = 1.0  # seconds
PRECISIONS = ("float32", "bfloat16")


def cells() -> list[dict[str, Any]]:
    """Return the programs to measure, the most important first."""
    found = [{"what": what, "precision": p, "size": 4096} for what in ("product", "convolution") for p in PRECISIONS]
    for what, batch, precision in (
        *((what, batch, "float32") for batch in (16, 64, 1) for what in ("forward", "train")),
        *((what, 16, "bfloat16") for what in ("forward", "train")),
        ("sample", 64, "float32"), ("vae", 16, "float32"), ("vae", 64, "float32"),
    ):  # fmt: skip
        found += [dict(network=n, what=what, batch=batch, precision=precision) for n in ("full", "small")]
    return found


def name(cell: dict[str, Any]) -> str:
    """Return a cell as text, such as `full train 16 float32`."""
    return " ".join(str(cell[part]) for part in ("network", "what", "batch", "precision") if part in cell)


def backends(cell: dict[str, Any]) -> list[str]:
    """Return the backends that have the program of a cell. Only this package has its VAE.

    "flax" is the U-Net of this package from plain Flax modules (bench_plain.py).
    """
    if cell["what"] == "vae":
        return ["jax"]
    return ["jax", "torch"] if "network" not in cell else list(WORKERS)


class Worker:
    """A process that has prepared a program.

    Attributes:
      about: versions, the device and the number of parameters.
      start: seconds from the start of the process to the end of the first run.
    """

    def __init__(self, backend: str, cell: dict[str, Any], cache: str):
        python, script = WORKERS[backend]
        caches = {"JAX_COMPILATION_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
        caches |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | caches
        )
        self.about = self.ask(cell | {"backend": backend})
        self.start = time.perf_counter() - began
        self.runs, self.seconds, self.memory = 1, [], 0.0

    def ask(self, order: Any) -> dict[str, Any]:
        """Send a line, and return the answer."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"a worker ended with status {self.process.wait()}")

    def turn(self) -> None:
        """Run the program for about TURN seconds."""
        answer = self.ask(self.runs)
        self.seconds += answer["seconds"]
        self.memory = answer["memory_MB"]
        self.runs = max(1, round(TURN / statistics.median(self.seconds)))

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(cell: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return a cell with the figures of all its backends."""
    found, workers = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        for backend in backends(cell):
            cold = Worker(backend, cell, f"{cache}/{backend}")
            cold.close()
            workers[backend] = warm = Worker(backend, cell, f"{cache}/{backend}")
            found[backend] = warm.about | {"cold_start": cold.start, "cached_start": warm.start}
        counts = {f["parameters"] for f in found.values()}
        assert len(counts) == 1, f"{name(cell)}: the networks differ: {counts} parameters"
        for _ in range(rounds):
            for worker in workers.values():
                worker.turn()
        for backend, worker in workers.items():
            worker.close()
            found[backend] |= {"seconds": statistics.median(worker.seconds), "memory_MB": worker.memory}
    return cell | {"backends": found}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    first = next(iter(lines))["backends"]
    versions = ", ".join(f"{n} {f.get(n.partition('.')[0])}" for n, f in first.items() if n != "flax")
    text = [
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {versions}", "",
        "| program | batch | precision | ours, s | plain Flax, s | PyTorch, s | compiled, s | best of PyTorch / ours "
        "| start of ours: cold, cached, s | of compiled: cold, cached, s | memory, MB: ours, Flax, PyTorch, compiled |",
        "| --- | ---: | --- |" + " ---: |" * 8,
    ]  # fmt: skip
    for line in lines:
        f = line["backends"]
        seconds = {n: f[n]["seconds"] for n in WORKERS if n in f}
        others = [s for n, s in seconds.items() if n.startswith("torch")]
        cells = [f"{seconds[n]:.4g}" if n in seconds else "" for n in WORKERS]
        cells.append(f"**{min(others) / seconds['jax']:.2f}**" if others else "")
        starts = [f[n] if n in f else None for n in ("jax", "torch.compile")]
        cells += [f"{s['cold_start']:.1f}, {s['cached_start']:.1f}" if s else "" for s in starts]
        cells.append(", ".join(f"{f[n]['memory_MB']:,.0f}" for n in WORKERS if n in f))
        title = f"{line.get('network', '')} {line['what']}".strip()
        text.append(f"| {title} | {line.get('batch', '')} | {line['precision']} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "benchmark", help="folder for the figures")
    parser.add_argument("--only", default="", help="measure only programs whose name has this text")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each process (default: 7)")
    options = parser.parse_args()
    if not any(options.only in name(cell) for cell in cells()):
        parser.error(
            f"--only={options.only}: no program has this in its name; give one of: " + ", ".join(map(name, cells()))
        )
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "figures.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {name(line) for line in lines}
    for cell in cells():
        if options.only not in name(cell) or name(cell) in done:
            continue
        print(f"{name(cell)} ...", file=sys.stderr, flush=True)
        lines.append(measure(cell, options.rounds))
        with file.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
        (options.out / "tables.md").write_text(table(lines))
    print(table(lines))


if __name__ == "__main__":
    main()
