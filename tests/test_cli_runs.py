"""A run directory continues its own run and refuses any other run."""

import json
import re
import subprocess
import sys

import jax
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, untrained_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax.errors import UserError
from vaedm_jax.main import MODES, main
from vaedm_jax.runs import rundir
from vaedm_jax.runs.identity import trained_on
from vaedm_jax.runtime import hosts


def test_a_vae_of_another_run_must_exist_and_fit(refused, run):
    command = "--config={configs}/tiny.py --workdir={new} --config.vae.checkpoint="
    refused(command + "{tmp}/none", "{tmp}/none", "no such file, nor a run directory")
    refused(command + "{configs}", "{configs} holds no run")
    refused(command + "avatars", "the VAE in avatars has another architecture", "vae.enc_block is '32d2,")
    for file in sorted((run / "vae").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    refused(command + "{run}", "{run}", "no trained VAE")


@pytest.mark.parametrize("mode", ["train", "sample"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--config.ddpm.channels=64", "ddpm.channels was 32, is now 64"),
        ("--config.ddpm.multipliers=(1,2)", "ddpm.multipliers was (1,), is now (1, 2)"),
        ("--config.vae.channels=16:16,4:16,1:4", "vae.channels was '16:8,4:8,1:4', is now '16:16,4:16,1:4'"),
        ("--config.data.category=Objects", "data.category was 'Activities', is now 'Objects'"),
        ("--config.ddpm.T=500", "ddpm.T was 1000, is now 500"),
        ("--config.ddpm.variant=form2", "ddpm.variant was 'form1', is now 'form2'"),
        ("--config.seed=1", "seed was 0, is now 1"),
        ("--config.ddpm.ema_decay=0", "ddpm.ema_decay was 0.9999, is now 0.0"),
    ],
)
def test_a_directory_refuses_another_run_naming_the_settings(refused, run, mode, change, words):
    refused(f"--config={{configs}}/tiny.py --workdir={{run}} --mode={mode} {change}", "{run} holds another run", words)
    refused(f"--workdir={{run}} --mode={mode} {change}", "{run} holds another run", words)


SIDE = {"images": 9, "image_size": 8, "content": ""}


def test_the_image_folder_may_move_if_its_images_are_the_same(tmp_path):
    def config(path):
        return tiny_config(**{"data.path": str(path), "data.category": ""})

    images, others = ({side: dict(SIDE, content=c) for side in ("train", "held_out")} for c in "ab")
    rundir.claim(tmp_path, config(tmp_path / "images"), images)
    rundir.claim(tmp_path, config(tmp_path / "moved"), images)
    with pytest.raises(UserError, match=r"was trained on .*--config\.data\.changed=True"):
        rundir.claim(tmp_path, config(tmp_path / "moved"), others)
    assert trained_on(tmp_path) == images
    with pytest.raises(UserError, match=r"data.path was '.*moved', is now ''"):
        rundir.refuse_another(tmp_path, config(""))
    assert rundir.refuse_another(tmp_path, config("elsewhere")), "what does not train may look for them anywhere"


def test_a_directory_that_is_locked_or_not_writable_is_refused(refused, tmp_path):
    holds = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", holds, tmp_path]
    train = "--config={configs}/tiny.py --mode=train --workdir="
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        refused(f"{train}{tmp_path}", f"another training writes to {tmp_path}", "another --workdir")
        other.communicate(b"\n")
    with rundir.lock(tmp_path):
        pass
    refused(f"{train}/proc/run", "--workdir=/proc/run cannot be written to")


def test_a_long_list_of_differences_ends_with_a_count(refused, run):
    changes = " ".join(
        f"--config.{name}=2" for name in ("seed", "ddpm.blocks", "ddpm.heads", "vae.kl_weight", "ddpm.T")
    )
    refused("--workdir={run} --config.log.sample_steps=1 " + changes, "ddpm.T was 1000", "and 1 more")


def test_the_length_learning_rate_logging_and_sampling_of_a_run_may_change(run, configs, untrained, capsys):
    free = "--config.ddpm.steps=9 --config.log.every=1 --config.checkpoint.keep=3 --config.sample.sampler=ddim"
    tuned = "--config.ddpm.learning_rate=0.001 --config.ddpm.ema_decay=0.99"
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={run}", *free.split(), *tuned.split()]
    assert main(command) == 0
    assert untrained == [("vae", 6), ("ddpm", 9)]
    noted = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert noted == [
        "note: ddpm.ema_decay was 0.9999; from now on it is 0.99",
        "note: ddpm.learning_rate was 0.0002; from now on it is 0.001",
    ]
    assert rundir.read_config(run).sample.sampler == "ddim"
    assert (run / "vae" / "checkpoints" / "kept").read_bytes() == b"precious"


def test_a_run_continues_with_its_own_configuration(run, untrained):
    assert main(["main", f"--workdir={run}", "--stage=vae"]) == 0
    assert untrained == [("vae", 6)]
    assert rundir.read_config(run) == tiny_config()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"ddpm": {"variant": "fo',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"ddpm": {"variant": "form9"}}',
        b'{"ddpm": {"variant": ["form1"]}}',
        b'{"ddpm": {"variant": "form1", "T": "many"}}',
        b'{"ddpm": {"variant": "form1", "unheard_of": 1}}',
    ],
)
def test_a_torn_or_foreign_config_json_is_refused_and_kept(refused, run, content):
    (run / "config.json").write_bytes(content)
    for mode in ("--config={configs}/tiny.py", "--mode=train", "--mode=sample"):
        refused("--workdir={run} " + mode, "{run}/config.json is not the configuration of a run")


def test_a_setting_that_a_newer_version_wrote_is_named(refused, run):
    stored = json.loads((run / "config.json").read_text())
    stored["ddpm"]["from_the_future"] = 1
    (run / "config.json").write_text(json.dumps(stored))
    refused("--workdir={run} --mode=sample", "no setting ddpm.from_the_future", "newer")


def test_settings_that_a_run_does_not_have_yet_get_their_defaults(run):
    stored = json.loads((run / "config.json").read_text())
    del stored["ddpm"]["scale_shift"], stored["log"]
    (run / "config.json").write_text(json.dumps(stored))
    config = rundir.read_config(run)
    assert config.ddpm.scale_shift is False and config.log.every == 50 and config.ddpm.channels == 32


def test_a_run_older_than_a_setting_keeps_the_earlier_behaviour(run, configs, untrained, refused):
    """Both stages drew the same random numbers before the setting `seed_per_stage` existed."""
    stored = json.loads((run / "config.json").read_text())
    del stored["seed_per_stage"]
    (run / "config.json").write_text(json.dumps(stored))
    assert tiny_config().seed_per_stage is True and rundir.read_config(run).seed_per_stage is False
    refused(f"--config={configs}/tiny.py --workdir={run} --config.seed_per_stage=True", "seed_per_stage was False")
    assert main(["main", f"--config={configs}/tiny.py", f"--workdir={run}"]) == 0
    assert rundir.read_config(run).seed_per_stage is False


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.\nmore",
            1,
            ["memory is full", "12 bytes", "microbatches"],
        ),
        ("INTERNAL: Gloo all-reduce failed: Connection closed by peer", 75, ["another process", "closed by peer"]),
    ],
)
def test_an_error_of_the_device_or_of_another_process_is_one_line(run, monkeypatch, capsys, error, status, words):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(error)

    monkeypatch.setitem(MODES, "train", fail)
    monkeypatch.setattr(hosts, "is_single", lambda: status == 1)
    assert main(["main", f"--workdir={run}"]) == status
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and all(word in printed for word in words)


def test_a_file_in_place_of_a_checkpoint_folder_is_refused_before_training(refused, tmp_path):
    for place in ("vae", "ddpm/checkpoints"):
        file = tmp_path / place.replace("/", "_") / place
        file.parent.mkdir(parents=True)
        file.write_bytes(b"mine")
        workdir = str(file).removesuffix(place)
        refused(f"--config={{configs}}/tiny.py --workdir={workdir}", str(file), "should be a folder", "move it away")


def test_a_command_sets_how_xla_computes_before_anything_runs(run, untrained, monkeypatch):
    asked = []
    monkeypatch.setattr("vaedm_jax.runtime.setup.set_xla", lambda *settings: asked.append(settings))
    options = ["--config.xla.deterministic", "--config.xla.matmul_precision=tensorfloat32"]
    assert main(["main", f"--workdir={run}", "--stage=vae", *options]) == 0
    assert asked == [(True, "tensorfloat32")]


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ("--config.ddpm.steps=9", True),
        ("--config.ddpm.steps=9 --config.ddpm.ema_schedule=constant", False),
        ("--config.ddpm.epochs=3", False),  # ignored, since steps are given
    ],
)
def test_another_length_of_a_run_is_noted_if_the_ema_schedule_depends_on_it(run, untrained, capsys, options, noted):
    def told(begun: bool) -> list[str]:
        rundir.claim(run, tiny_config())
        (run / "vae" / "checkpoints" / "6").mkdir(exist_ok=True)
        if begun:
            (run / "ddpm" / "checkpoints" / "4").mkdir(parents=True)
        capsys.readouterr()
        assert main(["main", f"--workdir={run}", *options.split()]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if re.match("note: .*ema_schedule =", line)]

    assert tiny_config().ddpm.ema_schedule == "byol"
    assert told(begun=False) == []
    notes = told(begun=True)
    assert len(notes) == noted
    assert all("ddpm.ema_schedule = 'byol'" in note and "was 6 and is now 9" in note for note in notes)


@pytest.mark.parametrize("name", ["ddpm.init", "data.category", "vae.channels"])
def test_a_very_long_setting_is_reported_in_a_short_line(run, capsys, name):
    assert main(["main", f"--workdir={run}", f"--config.{name}={'9' * 5000}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "9" * 50 in said and len(said) < 900
