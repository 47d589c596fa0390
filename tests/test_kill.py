"""A process that is killed loses nothing: the same command continues, and ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.cli_fixtures import TINY
from vaedm_jax import rundir
from vaedm_jax.mesh import make_mesh
from vaedm_jax.training.loop import restore_average
from vaedm_jax.training.stages import ddpm_stage, vae_stage

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "--config.vae.steps=24 --config.ddpm.steps=24 --config.log.every=1 --config.log.pictures=12 "
    "--config.checkpoint.every=7 --config.checkpoint.best=held_out_loss"
)
ONE_DEVICE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY)
    return path


def start(config: Path, workdir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "vaedm_jax.main", f"--config={config}", f"--workdir={workdir}", *SETTINGS.split()]
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | ONE_DEVICE, **output)


def finish(config: Path, workdir: Path) -> None:
    process = start(config, workdir)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def weights(workdir: Path) -> list[np.ndarray]:
    """All averaged weights of both stages, and of the best state of the second."""
    c, mesh = rundir.read_config(workdir), make_mesh()
    vae = restore_average(vae_stage(c), workdir, mesh)
    ddpm, best = (restore_average(ddpm_stage(c, vae), workdir, mesh, best) for best in (False, True))
    assert best is not None
    return [np.asarray(a) for a in jax.tree.leaves((vae, ddpm, best))]


def test_a_run_killed_at_random_moments_ends_with_the_weights_of_one_that_was_not(config, tmp_path):
    finish(config, tmp_path / "whole")
    moments = random.Random(0)
    for stage in ("vae", "ddpm"):
        process = start(config, tmp_path / "killed")
        written = tmp_path / "killed" / stage / "metrics.jsonl"
        lines = moments.randint(8, 20)
        while process.poll() is None and not (written.exists() and written.read_text().count("\n") >= lines):
            time.sleep(0.005)
        time.sleep(moments.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    finish(config, tmp_path / "killed")
    for a, b in zip(weights(tmp_path / "whole"), weights(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(a, b)
