"""Sampling uses the configuration of its run, and refuses settings that it cannot follow."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli_fixtures import configs_fixture, files, refused_fixture, run_fixture, save, trained_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax import command_line as flags
from vaedm_jax.api import VAEDM
from vaedm_jax.errors import UserError
from vaedm_jax.main import MODES, main
from vaedm_jax.modes.train import STAGES
from vaedm_jax.reporting import to_uint8
from vaedm_jax.reporting.pictures import read_caption
from vaedm_jax.runs import rundir


@pytest.mark.parametrize("folder", ["{new}", "{tmp}"])
@pytest.mark.parametrize("config", ["", "--config={configs}/tiny.py "])
def test_sampling_needs_a_run(refused, folder, config):
    refused(config + "--mode=sample --workdir=" + folder, folder, "--mode=train")


def test_sampling_a_run_that_is_not_trained_yet_is_refused(refused, run):
    for kept in (run / "vae" / "checkpoints").iterdir():
        kept.unlink()
    refused("--mode=sample --workdir={run}", "{run}", "no trained VAE", "--mode=train")


def test_weights_that_cannot_be_read_are_refused(refused, run):
    command = "--config={configs}/tiny.py --mode=sample --workdir={new} --config.sample.weights="
    refused(command + "{tmp}/none.safetensors", "none.safetensors", "no such file")
    refused(command + "nonesuch", "nonesuch", "no such file")
    refused(command + "{run}/config.json", "{run}/config.json", "VAEDM.save")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.sample.n=0", ["sample.n = 0"]),
        ("--config.sample.batch_size=0", ["sample.batch_size = 0"]),
        ("--config.sample.steps=-1", ["sample.steps = -1"]),
        ("--config.sample.steps=75 --config.sample.spacing=uniform", ["75 steps", "72 and 77"]),
        ("--config.sample.start=warm", ["sample.start", "form1"]),
        ("--config.sample.sampler=nonesuch", ["sample.sampler", "nonesuch", "dpm++2m"]),
        ("--config.sample.eta=1.5", ["sample.eta = 1.5", "from 0.0 to 1.0"]),
        ("--config.sample.dynamic=2", ["sample.dynamic = 2"]),
        ("--config.sample.churn=-1", ["sample.churn = -1"]),
        ("--config.sample.best=True", ["no best checkpoint", "--config.checkpoint.best=held_out_loss"]),
        ("--config.sample.files=gif", ["sample.files = 'gif'", "npz, png"]),
    ],
)
def test_invalid_sample_settings_are_refused(trained, capsys, arguments, words):
    before = files(trained)
    assert main(["main", f"--workdir={trained}", "--mode=sample", *arguments.split()]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and all(word in printed for word in words)
    assert files(trained) == before


def test_sampling_takes_the_configuration_of_the_run_and_overrides(trained):
    options = ["--config.sample.steps=3", "--config.sample.n=2", "--config.sample.seed=5"]
    assert main(["main", f"--workdir={trained}", "--mode=sample", *options]) == 0
    with np.load(trained / "samples" / "run_ddpm_noise_3_seed5.npz", allow_pickle=False) as arrays:
        assert arrays["images"].shape == (2, 16, 16, 3)
    assert rundir.read_config(trained).sample.steps == 2


def test_the_output_describes_the_chain_that_is_run(trained, capsys):
    options = ["--config.sample.spacing=quadratic", "--config.sample.steps=50", "--config.sample.n=2"]
    assert main(["main", f"--workdir={trained}", "--mode=sample", *options]) == 0
    assert "ddpm, 49 steps from noise at t = 800" in capsys.readouterr().out
    assert (trained / "samples" / "run_ddpm_noise-quadratic50_49_seed0.npz").is_file()
    caption = read_caption(trained / "samples" / "run_ddpm_noise-quadratic50_49_seed0.png")
    assert "49 steps from noise at t = 800" in caption


@pytest.mark.parametrize(
    "setting", ["--config.sample.weights={}", "--config.sample.weights {}", "--config.eval.runs={},b"]
)
def test_weights_and_runs_bring_their_own_configuration(trained, tmp_path, setting):
    VAEDM.from_run(trained).save(file := tmp_path / "tiny.safetensors")
    for named in (file, trained):
        argv = ["main", f"--workdir={tmp_path / 'new'}", "--mode=sample", *setting.format(named).split()]
        config = flags.parse([*argv, "--config.sample.eta=0.5"], MODES, STAGES).config
        assert (config.ddpm.variant, config.sample.steps, config.sample.eta) == ("uncond", 2, 0.5)


@pytest.mark.parametrize("before", ["--config.sample.weights=", "--config.sample.weights=avatars"])
def test_a_setting_that_is_given_twice_brings_the_configuration_of_its_last_value(before, tmp_path):
    argv = ["main", f"--workdir={tmp_path}", "--mode=sample", before, "--config.sample.weights=avatars-uncond"]
    assert flags.parse(argv, MODES, STAGES).config.ddpm.variant == "uncond"


def test_a_setting_that_names_no_model_leaves_the_configuration_to_another(tmp_path):
    argv = ["main", f"--workdir={tmp_path}", "--mode=evaluate", "--config.ddpm.init=", "--config.eval.runs=avatars"]
    assert flags.parse(argv, MODES, STAGES).config.ddpm.variant == "form1"


def test_the_best_checkpoint_is_sampled_if_it_is_asked_for(trained, tmp_path):
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    save(workdir / "ddpm" / "best", 0.1)
    for option in ([], ["--config.sample.best=True"]):
        assert main(["main", f"--workdir={workdir}", "--mode=sample", *option]) == 0
    paths = (workdir / "samples" / f"{name}_ddpm_noise_2_seed0.npz" for name in ("run", "best"))
    newest, best = (np.load(path)["images"] for path in paths)
    np.testing.assert_array_equal(best, to_uint8(VAEDM.from_run(workdir, best=True).sample(4, batch_size=8).images))
    assert (best != newest).any()
    for file in (workdir / "ddpm" / "best").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"best can be read; leave --config\.sample\.best out"):
        VAEDM.from_run(workdir, best=True)


def test_the_picture_of_many_samples_shows_the_first_of_them(trained, monkeypatch):
    monkeypatch.setattr("vaedm_jax.modes.sample.SHOWN", 2)
    sizes = {}
    for n in (2, 20):
        options = [f"--config.sample.n={n}", "--config.sample.sampler=heun", "--config.sample.steps=2"]
        assert main(["main", f"--workdir={trained}", "--mode=sample", *options]) == 0
        with np.load(trained / "samples" / "run_heun_noise_2_seed0.npz", allow_pickle=False) as arrays:
            assert len(arrays["images"]) == n
        with Image.open(trained / "samples" / "run_heun_noise_2_seed0.png") as picture:
            sizes[n] = picture.size
    assert sizes[2] == sizes[20]


def test_samples_may_be_written_as_png_files(trained):
    options = ["--config.sample.n=5", "--config.sample.steps=2", "--config.sample.files=png", "--config.sample.seed=9"]
    assert main(["main", f"--workdir={trained}", "--mode=sample", *options]) == 0
    names = sorted(file.name for file in (trained / "export" / "run_ddpm_noise_2_seed9").iterdir())
    assert names == [f"{i:06d}.png" for i in range(5)]
    assert not list((trained / "samples").glob("*.parts"))


def test_a_model_trained_in_float32_may_be_sampled_in_bfloat16(tmp_path):
    rundir.claim(tmp_path, tiny_config("uncond"))
    save(tmp_path / "ddpm" / "checkpoints", 0.05)
    found = []
    for precision in ("float32", "bfloat16"):
        command = ["--mode=sample", f"--config.ddpm.precision={precision}", "--config.sample.steps=2"]
        assert main(["main", f"--workdir={tmp_path}", *command]) == 0
        with np.load(tmp_path / "samples" / "run_ddpm_noise_2_seed0.npz") as arrays:
            found.append(arrays["images"].astype(int))
    assert 0 < np.abs(found[0] - found[1]).mean() < 3
