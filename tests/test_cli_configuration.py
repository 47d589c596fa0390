"""An invalid configuration is refused before anything is written, and the error names what is wrong."""

import numpy as np
import pytest
from PIL import Image

from tests.cli_fixtures import ROOT, configs_fixture, refused_fixture  # noqa: F401
from vaedm_jax import command_line as flags
from vaedm_jax.config.checks import check
from vaedm_jax.diffusion.process import FORMULATIONS


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tiny.py:form3", ["tiny.py:form3", "variant = 'form3'", "uncond, form1, form2"]),
        ("none.py", ["is not there", "none.py"]),
        ("", ["is a folder"]),
        ("syntax.py", ["syntax.py, line 2", "SyntaxError", "never closed"]),
        ("without.py", ["without.py", "get_config"]),
        ("raises.py", ["raises.py, line 3", "ZeroDivisionError", "division by zero"]),
        ("raises.py:form1", ["raises.py", "get_config", "argument"]),
        ("exits.py", ["exits.py, line 2", "SystemExit"]),
        ("nothing.py", ["nothing.py", "base_config"]),
        ("own.py", ["own.py", "base_config"]),
        ("typo.py", ["typo.py, line 4", "batchsize", "batch_size"]),
        ("type.py", ["type.py, line 4", "batch_size", "int"]),
        ("unset.py", ["unset.py", "vae.batch_size = None", "must have a value"]),
        ("zero.py", [": {configs}/zero.py: SyntaxError: source code string cannot contain null bytes"]),
        ("binary.py", ["binary.py"]),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_the_line(refused, spec, words):
    refused("--workdir={new} --config={configs}/" + spec, *words)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda file: file.stem)
@pytest.mark.parametrize("variant", FORMULATIONS)
def test_the_configurations_of_the_project_are_accepted(file, variant):
    config = flags.load(f"{file}:{variant}")
    check(config)
    assert config.ddpm.variant == variant


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.ddpm.microbatches=3", ["ddpm.batch_size = 8", "devices (8)", "microbatches (3)", "such as 24"]),
        ("--config.vae.batch_size=12", ["vae.batch_size = 12", "devices (8)", "such as 16"]),
        ("--config.ddpm.batch_size=0", ["ddpm.batch_size = 0", "1 or more"]),
        ("--config.ddpm.steps=-5", ["ddpm.steps = -5", "0 or more"]),
        ("--config.vae.steps=0 --config.vae.epochs=0", ["vae.steps and vae.epochs"]),
        ("--config.vae.learning_rate=nan", ["vae.learning_rate = nan", "0.0 or more"]),
        ("--config.ddpm.dropout=2", ["ddpm.dropout = 2", "from 0.0 to 1.0"]),
        ("--config.ddpm.T=0", ["ddpm.T = 0", "1 or more"]),
        ("--config.ddpm.beta_1=0", ["ddpm.beta_1 = 0"]),
        ("--config.seed=-1", ["seed = -1"]),
        ("--config.ddpm.ema_schedule=linear", ["ddpm.ema_schedule = 'linear'", "constant, byol"]),
        ("--config.checkpoint.keep=0", ["checkpoint.keep = 0", "1 or more"]),
        ("--config.checkpoint.best=fd", ["checkpoint.best = 'fd'", "--config.log.scored"]),
        ("--config.log.scored=1", ["log.scored = 1"]),
        ("--config.xla.matmul_precision=half", ["xla.matmul_precision = 'half'", "tensorfloat32, float32"]),
        ("--config.checkpoint.best=loss", ["checkpoint.best = 'loss'", "held_out_loss"]),
        ("--config.log.images=0", ["log.images = 0", "1 or more"]),
        ("--config.sample.n=0", ["sample.n = 0", "1 or more"]),
        ("--config.sample.sampler=euler", ["sample.sampler = 'euler'", "ddpm, ddim"]),
        ("--config.sample.steps=75 --config.sample.spacing=uniform", ["75 steps", "72 and 77", "'even'"]),
        ("--config.sample.steps=1001", ["1001 steps", "from 1 to 1000"]),
        ("--config.sample.start=warm --config.sample.t_start=1000", ["t_start = 1000", "999"]),
        ("--config.sample.sampler=tuned", ["sample.sampler = 'tuned'", "learnt table", "'unipc2'"]),
        ("--config.log.sample_steps=2000", ["log.sample_steps", "2000 steps", "1000"]),
        ("--config.data.image_size=32", ["block string", "16x16", "32x32"]),
        ("--config.vae.enc_block=16d4", ["vae.enc_block", "block string '16d4'", "ends at 4x4"]),
        ("--config.vae.channels=16:8,4:8,1:4,4:16", ["entry '4:16'", "resolution 4 has a width already, 8"]),
        ("--config.vae.channels=16:8,4:1,1:4", ["vae.enc_block", "entry 4d4", "2 or more"]),
        ("--config.data.image_size=15", ["data.image_size = 15", "multiple of 2"]),
        ("--config.ddpm.patch=3", ["data.image_size = 16", "multiple of 3"]),
        ("--config.ddpm.channels=33", ["width of 33"]),
        ("--config.ddpm.heads=5", ["width of 32", "ddpm.heads = 5"]),
        ("--config.ddpm.attention=3", ["ddpm.attention = (3,)", "no level"]),
        ("--config.data.category=Robots", ["Robots", "People & Body"]),
        ("--config.vae.batch_size=8000", ["79", "vae.batch_size = 8000"]),
        ("--config.data.path={tmp}/none", ["{tmp}/none"]),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(refused, arguments, words):
    refused("--config={configs}/tiny.py --workdir={new} " + arguments, *words)


def test_the_unconditional_model_has_no_vae_stage(refused):
    refused("--config={configs}/tiny.py:uncond --workdir={new} --stage=vae", "--stage=vae", "form1 or form2")
    refused("--config={configs}/tiny.py:uncond --workdir={new} --config.sample.start=warm", "sample.start", "form1")


def test_a_folder_that_cannot_be_trained_on_is_refused_naming_the_file(refused, tmp_path):
    command = "--config={configs}/tiny.py --workdir={new} --config.data.category= --config.data.path={tmp}/images"
    folder = tmp_path / "images"
    folder.mkdir()
    refused(command, "{tmp}/images holds no images")
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.jpg")
    refused(command, "3 training images", "vae.batch_size = 8")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "0.jpg").write_bytes(whole[: len(whole) // 2])
    refused(command, "{tmp}/images/0.jpg", "truncated")
    (folder / "0.jpg").write_bytes(whole)
    (folder / "notes.png").write_text("no picture")
    refused(command, "{tmp}/images/notes.png", "repair or remove")
