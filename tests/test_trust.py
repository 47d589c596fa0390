"""A setting that is read from a file runs no code and uses no network. The user's own command line may do both."""

import json

import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, untrained_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax import command_line as flags
from vaedm_jax.api import VAEDM
from vaedm_jax.config import base_config, data_section
from vaedm_jax.errors import UserError
from vaedm_jax.main import MODES, main
from vaedm_jax.modes.train import STAGES
from vaedm_jax.runs import rundir

RISKS = {
    "eval.features": ["payload:f", "random,payload:f", "emoji, payload.deep:f"],
    "data.source": [
        "huggingface:payload",
        "kubric:movi_a",
        "huggingface:a/b:1.0.0",
        "gs://payload/x",
        "mnist/../x",
        "a=b",
    ],
    "data.path": ["gs://payload/x", "http://payload/x", "/gs/payload/x", "s3://payload", "hf://payload"],
    "data.tfds_dir": ["gs://payload/x", "/s3/payload/x"],
    "data.archive": ["https://payload/cifar-10-binary.tar.gz"],
    "vae.checkpoint": ["gs://payload/x"],
    "sample.prior": ["gs://payload/x"],
    "eval.runs": ["avatars,gs://payload/x"],
    "prepare.beam": ["runner=FlinkRunner,flink_master=payload:8081", "runner=DirectRunner"],
    "explore.host": ["0.0.0.0", "payload"],
}
SOUND = {
    "eval.features": "emoji,random,inception",
    "data.source": "mnist/plain:3.0.1",
    "data.path": "/home/me/pictures: of 2020",
    "data.tfds_dir": "~/tensorflow_datasets",
    "vae.checkpoint": "runs/a",
    "explore.host": "localhost",
}
CASES = [(name, value) for name, values in RISKS.items() for value in values]


def stored(run, name, value):
    """Store a setting in the configuration of a run, as someone else might."""
    section, _, key = name.partition(".")
    config = json.loads((run / "config.json").read_text())
    config[section][key] = value
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name, value", CASES)
def test_a_run_with_a_risky_setting_is_refused_unless_the_user_gives_it_too(run, refused, name, value):
    stored(run, name, value)
    refused("--workdir={run} --mode=evaluate", "{run}/config.json", name, f"--config.{name}=")
    command = flags.parse(["main", f"--workdir={run}", "--mode=evaluate", f"--config.{name}={value}"], MODES, STAGES)
    assert command.config[name.split(".")[0]][name.split(".")[1]] == value


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate", "figures", "restore", "explore", "prior", "tune"])
def test_no_mode_imports_a_module_that_a_run_names(run, refused, tmp_path, monkeypatch, mode):
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    stored(run, "eval.features", "payload:f")
    refused(f"--workdir={{run}} --mode={mode} --config.log.scored=8", "eval.features = 'payload:f'", "run code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("setting", flags.OWN_MODELS)
def test_weights_with_a_risky_setting_are_refused(tmp_path, refused, setting):
    with (config := tiny_config("uncond")).unlocked():
        config.eval.features = "payload:f"
    VAEDM(config, {}, {}).save(tmp_path / "weights.safetensors")
    refused(
        f"--workdir={{new}} --mode=evaluate --config.{setting}={{tmp}}/weights.safetensors", "payload:f", "run code"
    )


def test_settings_that_only_read_local_files_or_compute_are_taken_from_a_file(run):
    for name, value in SOUND.items():
        stored(run, name, value)
    config = flags.parse(["main", f"--workdir={run}", "--mode=evaluate"], MODES, STAGES).config
    assert config.data.source == SOUND["data.source"] and config.vae.checkpoint == "runs/a"


def test_a_configuration_file_may_name_code(run, configs, untrained):
    stored(run, "eval.features", "payload:f")
    assert main(["main", f"--config={configs}/tiny.py", f"--workdir={run}", "--config.eval.features=payload:f"]) == 0
    assert rundir.read_config(run).eval.features == "payload:f"


def test_the_data_of_a_model_are_fetched_only_if_the_user_names_them_too():
    trained, asked = base_config(), base_config()
    trained.data.source = "huggingface:payload"
    with pytest.raises(UserError, match=r"data\.source = 'huggingface:payload', which would use the network"):
        data_section(asked, trained)
    asked.data.source = "huggingface:payload"
    assert data_section(asked, trained).source == "huggingface:payload"


def test_files_that_have_moved_are_named_by_the_command():
    asked, trained = base_config(), base_config()
    trained.data.path, trained.data.archive = "/there/pictures", "/there/faces.npz"
    assert data_section(asked, trained).to_dict() == trained.data.to_dict()
    asked.data.path, asked.data.archive = "/here/pictures", "/here/faces.npz"
    found = data_section(asked, trained)
    assert (found.path, found.archive) == ("/here/pictures", "/here/faces.npz")


def test_settings_of_this_machine_are_those_of_the_command():
    asked, trained = base_config(), base_config()
    trained.data.tfds_dir, trained.data.workers = "/there", 8
    assert (data_section(asked, trained).tfds_dir, data_section(asked, trained).workers) == ("/there", 0)
    asked.data.tfds_dir, asked.data.workers, asked.data.max_pixels, asked.data.avatars = "/here", 3, 2**30, 50_000
    found = data_section(asked, trained)
    assert (found.tfds_dir, found.workers, found.max_pixels, found.avatars) == ("/here", 3, 2**30, 50_000)
