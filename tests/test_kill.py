"""A process that is killed, or asked to stop when there is nothing to save, loses nothing: the same command continues.

A longer form kills a run 100 times, at random moments of both stages:

    python -m tests.test_kill 100
"""

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli_fixtures import trained_fixture  # noqa: F401
from tests.processes import ended, lines, start, wait_for, weights
from vaedm_jax.api import VAEDM
from vaedm_jax.main import main
from vaedm_jax.reporting import to_uint8


def killed_and_whole(folder: Path, kills: int, steps: int, seed: int = 0) -> None:
    """Kill a run of both stages repeatedly, then let it end. Its weights must be those of an undisturbed run."""
    settings = f"--config.vae.steps={steps} --config.ddpm.steps={steps} --config.log.every=1 --config.log.pictures=12"
    settings += " --config.checkpoint.every=7 --config.checkpoint.best=held_out_loss"
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    process = start(whole, *settings.split())
    wait_for(process, lambda: lines(whole) > 0)
    opening = time.monotonic() - began
    ended(process)
    moments = random.Random(seed)
    for number, line in enumerate(sorted(moments.sample(range(2, 2 * steps - 1), kills)), 1):
        process = start(killed, *settings.split())
        if number % 4 == 0:  # before the first step of this process
            time.sleep(moments.random() * opening)
        else:
            wait_for(process, lambda: lines(killed) >= line)  # noqa: B023
            time.sleep(moments.random() * 0.1)
        process.kill()
        ended(process, -signal.SIGKILL)
        print(f"kill {number}, at line {lines(killed)} of {2 * steps}", flush=True)
    ended(start(killed, *settings.split()))
    for a, b in zip(weights(whole), weights(killed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_run(tmp_path):
    killed_and_whole(tmp_path, kills=2, steps=24)


def terminate(process) -> None:
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_request_to_stop_ends_a_compilation(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "empty"))
    process = start(tmp_path / "run")
    wait_for(process, (tmp_path / "run" / "vae" / "checkpoints").exists)
    time.sleep(1)
    terminate(process)
    assert not list((tmp_path / "run").glob("vae/checkpoints/*")) and lines(tmp_path / "run") == 0


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_a_request_to_stop_ends_sampling_and_evaluation_and_the_same_command_continues(trained, tmp_path, mode):
    (workdir := tmp_path / "run").mkdir()
    for kept in ("config.json", "ddpm"):
        (workdir / kept).symlink_to(trained / kept)
    command = [f"--mode={mode}", "--config.sample.n=200", "--config.eval.n=200", "--config.eval.steps=2"]
    process = start(workdir, *command, "--config.eval.keep_images=True")
    wait_for(process, lambda: len(list(workdir.rglob("0*.npz"))) > 1)
    terminate(process)
    done = {path: path.stat().st_mtime_ns for path in workdir.rglob("0*.npz")}
    assert len(done) > 1 and not list(workdir.glob("*/*.npz"))
    assert main(["main", f"--workdir={workdir}", *command, "--config.eval.keep_images=True"]) == 0
    if mode == "sample":
        expected = to_uint8(VAEDM.from_run(trained).sample(200, batch_size=8).images)
        with np.load(next((workdir / "samples").glob("*.npz"))) as found:
            np.testing.assert_array_equal(found["images"], expected)
    else:
        assert done.items() <= {path: path.stat().st_mtime_ns for path in workdir.rglob("0*.npz")}.items()
        assert (workdir / "evaluation" / "evaluation.csv").exists()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        killed_and_whole(Path(folder), kills=int(sys.argv[1]), steps=int(sys.argv[1]) + 10)
    print("the same bits")
