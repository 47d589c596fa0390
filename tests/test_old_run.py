"""A run directory of an earlier version opens and continues.

`old_run/run.tar.xz` was written before the package was divided into rooms. It is a run of six steps of each stage, with
an evaluation and samples. That version then trained the refiner for three more steps. `old_run/continued.json` has the
sum and the sum of squares of each parameter after these steps.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vaedm_jax import VAEDM
from vaedm_jax.main import main

OLD = Path(__file__).with_name("old_run")
EVALUATE = ["--mode=evaluate", "--config.eval.n=8", "--config.eval.steps=2,3"]


@pytest.fixture(name="run")
def run_fixture(tmp_path) -> Path:
    with tarfile.open(OLD / "run.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_results_of_an_old_run_still_count(run, capsys):
    command = ["main", f"--workdir={run}", *EVALUATE, "--config.eval.features=random"]
    assert main(command) == 0
    assert "2 to score, 2 of them done" in capsys.readouterr().out


def test_an_old_run_draws_the_same_images(run, capsys):
    with np.load(run / "samples" / "run_ddpm_noise_2_seed0.npz") as samples:
        images = samples["images"].astype(int)
    drawn = VAEDM.from_run(run).sample(4).images
    assert np.abs(np.rint(255 * drawn) - images).max() <= 1


def test_the_training_of_an_old_run_continues(run):
    assert main(["main", f"--workdir={run}", "--mode=train", "--config.ddpm.steps=9"]) == 0
    params = {
        name: np.float64(a) for name, a in flatten_dict(VAEDM.from_run(run).params, sep="/").items() if np.size(a)
    }
    wanted = json.loads((OLD / "continued.json").read_text())
    assert params.keys() == wanted.keys()
    for name, a in params.items():
        np.testing.assert_allclose([a.sum(), (a**2).sum()], wanted[name], atol=2e-4 * a.size**0.5, err_msg=name)
