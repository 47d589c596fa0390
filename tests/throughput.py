"""Measure the images a second of the input pipelines: `python -m tests.throughput`.

Run it with `taskset -c 0` for one core. The images are synthetic, and as smooth as photographs. Some have the size of
CIFAR-10 and are in its archive, others are JPEGs of 1024 x 1024. A line gives images a second of wall-clock time, the
best of several rounds. It also gives images a second of processor time, which depends less on the load of the machine.
They are counted for all processes, and for the training process, which only receives images from workers.
"""

import io
import os
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tests.test_data_cifar10 import cifar_archive
from vaedm_jax import command_line as flags
from vaedm_jax import data
from vaedm_jax.data import Source
from vaedm_jax.modes.prepare import prepare

CONFIGS = Path(__file__).parents[1] / "configs"
ROUNDS, SECONDS = 5, 4.0
PHOTOGRAPHS, COPIES, CIFAR_FILE = 20, 10, 2000


def made(size: int, rng: np.random.Generator) -> Image.Image:
    """Return an image of noise at all scales. Larger scales are stronger, as in photographs."""
    total = np.zeros((size, size, 3))
    for scale in (2**k for k in range(int(np.log2(size)) + 1)):
        noise = rng.normal(0, scale**0.75, (size // scale, size // scale, 3))
        channels = [Image.fromarray(noise[..., c].astype(np.float32)).resize((size, size), 2) for c in range(3)]
        total += np.stack([np.asarray(channel) for channel in channels], -1)
    return Image.fromarray(np.clip(128 + 50 * total / total.std(), 0, 255).astype(np.uint8))


def cifar10(root: Path) -> ConfigDict:
    rng, files = np.random.default_rng(0), {}
    distinct = [np.asarray(made(32, rng)).transpose(2, 0, 1).ravel() for _ in range(CIFAR_FILE)]
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = rng.integers(0, 10, (CIFAR_FILE, 1), dtype=np.uint8)
        files[name] = np.hstack([labels, rng.permutation(np.stack(distinct))])
    c = flags.load(str(CONFIGS / "cifar10.py"))
    c.data.archive, c.data.tfds_dir = str(cifar_archive(root / "cifar.tar.gz", files)), str(root / "tfds")
    return c


def photographs(root: Path) -> ConfigDict:
    c = flags.load(str(CONFIGS / "celebamask_hq_128.py"))
    c.data.path = str(root / "photographs")
    rng = np.random.default_rng(0)
    Path(c.data.path).mkdir()
    for i in range(PHOTOGRAPHS):
        jpeg = io.BytesIO()
        made(1024, rng).save(jpeg, "jpeg", quality=90)
        for k in range(COPIES):
            (Path(c.data.path) / f"{i}_{k}.jpg").write_bytes(jpeg.getvalue())
    return c


def used(pids: list[int]) -> float:
    """Return the seconds of processor time that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def measure(name: str, train: Source, batch_size: int, workers: int) -> None:
    rates, images = [], 0
    with closing(data.batches(train, batch_size, 0, False, workers=workers)) as batches:
        for _ in range(3 + 6 * workers):  # skip what was read ahead before the measurement
            next(batches)
        own, all_of_us = [os.getpid()], [os.getpid(), *(child.pid for child in active_children())]
        start = used(own), used(all_of_us)
        for _ in range(ROUNDS):
            began, n = time.monotonic(), 0
            while time.monotonic() - began < SECONDS:
                next(batches)
                n += batch_size
            rates.append(n / (time.monotonic() - began))
            images += n
        own_seconds, seconds = used(own) - start[0], used(all_of_us) - start[1]
    how = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "threads"
    print(f"{name}, {how}: {max(rates):,.0f} images/s, {images / seconds:,.0f} a second of a core", end="")
    print(f", {images / max(own_seconds, 0.01):,.0f} of the training process" if workers else "", flush=True)


def main() -> None:
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        c = cifar10(root)
        cases = [("CIFAR-10", data.load(c.data), c.ddpm.batch_size)]
        c = photographs(root)
        sizes = [file.stat().st_size for file in Path(c.data.path).iterdir()]
        prepare(c, root / "records")
        print(f"prepared {len(sizes)} JPEGs of {np.mean(sizes) / 1e3:.0f} kB")
        c.data.workers = 1  # so that they are decoded for every batch
        cases.append(("1024 x 1024 JPEG from a folder at 128", data.load(c.data), c.ddpm.batch_size))
        c.data.path = str(root / "records")
        cases.append(("prepared at 128", data.load(c.data), c.ddpm.batch_size))
        for name, dataset, batch_size in cases:
            for workers in (0, 1, 2):
                measure(name, dataset.train, batch_size, workers)


if __name__ == "__main__":
    main()
