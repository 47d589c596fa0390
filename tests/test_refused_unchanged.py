"""A refused command changes nothing: all checks come before the first write and the first train step."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli_fixtures import (  # noqa: F401
    configs_fixture,
    files,
    refused_fixture,
    run_fixture,
    save,
    trained_fixture,
    untrained_fixture,
)
from tests.tiny import random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.main import main
from vaedm_jax.modes import train
from vaedm_jax.runs import rundir
from vaedm_jax.runtime import mesh
from vaedm_jax.training.stages import ddpm_stage, vae_stage

BROKEN = '{"step": 1, "loss": 1.0}\nno line\n{"step": 2, "loss": 1.0}\n'
SCORED = "--config.log.scored=8"


@pytest.fixture(autouse=True)
def never(monkeypatch):
    """Fail if a refused command trains a stage."""

    def fit(stage, *_, **__):
        raise AssertionError(f"{stage.name} is trained")

    monkeypatch.setattr(train, "fit", fit)


@pytest.mark.parametrize("stage", ["vae", "ddpm"])
def test_a_broken_line_of_metrics_is_refused_before_the_configuration_is_written(refused, run, stage):
    (run / stage).mkdir(exist_ok=True)
    (run / stage / "metrics.jsonl").write_text(BROKEN)
    refused(f"--workdir={{run}} --config.{stage}.learning_rate=0.01", f"{stage}/metrics.jsonl, line 2")


@pytest.mark.parametrize("directory", ["new", "run"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SCORED + " --config.eval.features=nosuch:fn", ["nosuch:fn", "ModuleNotFoundError"]),
        (SCORED + " --config.eval.features=tests.tiny_features:fails", ["fails", "the function fails"]),
        (SCORED + " --config.eval.features=tests.tiny_features:pixels", ["pixels", "should be [2, D]"]),
        (SCORED + " --config.eval.features=inception", ["eval.inception"]),
        (SCORED + " --config.checkpoint.best=fd", ["checkpoint.best = 'fd'", "8"]),
        ("--config.sample.guidance=1", ["sample: guidance = 1", "cond_dropout"]),
        ("--config.ddpm.epochs=1e9 --config.ddpm.steps=0 --config.ddpm.batch_size=8", ["1e+09 epochs", "32 bits"]),
    ],
)
def test_errors_of_the_second_stage_and_its_scores_are_found_before_the_first_stage(
    refused, run, directory, settings, words
):
    refused(
        f"--config={{configs}}/tiny.py --workdir={{{directory}}} --config.vae.learning_rate=0.01 {settings}", *words
    )


def test_networks_that_do_not_fit_in_memory_are_refused_before_the_first_stage(refused, monkeypatch):
    monkeypatch.setattr(mesh, "memory_bytes", lambda: 2**20 * 8)
    refused("--config={configs}/tiny.py --workdir={new}", "the state of the DDPM needs")


def test_a_z_temperature_for_a_plain_ddpm_is_refused(refused):
    refused("--config={configs}/tiny.py:uncond --workdir={new} --config.sample.z_temperature=0.9", "z_temperature")


def test_guidance_of_a_plain_ddpm_is_refused_even_if_its_training_names_a_dropout_of_the_condition(refused):
    settings = "--config.ddpm.cond_dropout=0.1 --config.sample.guidance=1"
    refused("--config={configs}/tiny.py:uncond --workdir={new} " + settings, "guidance = 1", "neither x_hat nor z")


def test_checkpoints_that_cannot_be_read_are_refused_before_the_configuration_is_written(refused, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for file in (tmp_path / "run" / "ddpm" / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:100])
    before = files(tmp_path)
    assert main(["main", f"--workdir={tmp_path}/run", "--config.ddpm.learning_rate=0.01"]) == 2
    assert files(tmp_path) == before


def test_checkpoints_of_another_architecture_are_refused_before_the_configuration_is_written(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    stored["ddpm"]["blocks"] = 2
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    before = files(tmp_path)
    assert main(["main", f"--workdir={tmp_path}/run", "--config.ddpm.learning_rate=0.01"]) == 2
    assert capsys.readouterr().err.count("\n") <= 2
    assert files(tmp_path) == before


@pytest.fixture(name="weights")
def weights_fixture(tmp_path):
    config = tiny_config()
    model = VAEDM(config, random_params(vae_stage(config), 1), random_params(ddpm_stage(config, {}), 2))
    model.save(tmp_path / "w.safetensors")
    return "--workdir={new} --config.sample.weights={tmp}/w.safetensors --config.figures.steps=2 --mode="


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("figures --config.restore.factor=3", ["factor = 3", "must divide"]),
        ("figures --config.eval.features=tests.tiny_features:fails", ["the function fails"]),
        ("figures --config.eval.features=random,tests.tiny_features:pixels", ["should be [2, D]"]),
        ("evaluate --config.eval.features=random,tests.tiny_features:fails", ["the function fails"]),
        ("evaluate --config.sample.seed=4294967295 --config.eval.seeds=2", ["last seed"]),
    ],
)
def test_other_modes_check_everything_before_they_write(refused, weights, arguments, words):
    refused(weights + arguments, *words)


def test_missing_images_are_refused_before_figures_are_drawn(refused, tmp_path):
    config = tiny_config(**{"data.path": str(tmp_path / "gone"), "data.category": ""})
    model = VAEDM(config, random_params(vae_stage(config), 1), random_params(ddpm_stage(config, {}), 2))
    model.save(tmp_path / "w.safetensors")
    files = "--config.sample.weights={tmp}/w.safetensors --config.figures.steps=2 --config.eval.features=random"
    refused("--workdir={new} --mode=figures " + files, "gone")


def test_a_missing_scikit_learn_is_refused_before_a_flow_is_trained(refused, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    refused(weights + "prior --config.prior.kinds=flow,diag", "scikit-learn")


def test_a_folder_without_a_readable_image_is_refused_before_records_are_written(refused, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no picture")
    refused(
        "--config={configs}/tiny.py --workdir={new} --mode=prepare --config.data.path={tmp}/images",
        "no image in {tmp}/images can be read",
        "a.png",
    )


def test_a_valid_change_is_stored_and_both_stages_are_trained(run, untrained, tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "unrelated.png")
    assert main(["main", f"--workdir={run}", "--config.ddpm.learning_rate=0.01"]) == 0
    assert untrained == [("vae", 6), ("ddpm", 6)]
    assert rundir.read_config(run).ddpm.learning_rate == 0.01
