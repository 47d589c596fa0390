"""Worker processes make the same batches as threads, leave signals to the training process, and end with it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vaedm_jax import data
from vaedm_jax.data.dataset import Lazy

ROOT = Path(__file__).parents[1]
SOURCE = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
ENDLESS = """
import os, signal, sys, time
from multiprocessing import active_children
import numpy as np
from vaedm_jax import data

if __name__ == "__main__":
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    batches = data.batches(np.zeros((9, 4, 4, 3), np.uint8), 3, 0, False, workers=2)
    next(batches)
    print(*[child.pid for child in active_children()], flush=True)
    while True:
        next(batches)
        time.sleep(0.01)
        while asked:
            print(asked.pop(), flush=True)
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_the_batches_do_not_depend_on_the_number_of_workers(workers):
    whole = data.pipeline(SOURCE, 6, 7, flip=True)
    with closing(data.batches(SOURCE, 6, 7, True, start=5, shard=(1, 2), workers=workers)) as batches:
        for n in range(5, 25):
            np.testing.assert_array_equal(next(batches), whole[n][3:])


def state_of_jax(_: int) -> np.ndarray:
    """Return pixels that say if JAX has started here, if it is limited to the CPU, and which process this is."""
    import jax
    from jax._src import xla_bridge

    cpu = os.environ["JAX_PLATFORMS"] == "cpu" and jax.config.jax_platforms == "cpu"
    return np.array([[[xla_bridge.backends_are_initialized(), cpu, os.getpid() % 256]]], np.uint8)


def test_a_worker_leaves_the_accelerators_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    with closing(data.batches(Lazy(range(4), state_of_jax), 1, 0, False, workers=1)) as batches:
        started, cpu, process = next(batches)[0, 0, 0]
    assert not started and cpu and process != os.getpid() % 256


def alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_ignore_signals_and_end_with_their_parent(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py")]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)  # to the whole group, as a terminal and a scheduler do
        assert process.stdout.readline().split() == [str(int(number))]
        assert all(map(alive, workers))
    process.kill()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive a parent that was killed"
        time.sleep(0.05)
    assert "Traceback" not in process.communicate()[1]
