"""The flags of the command line: every form is understood, and every error is one line."""

import errno
import os
import subprocess
import sys

import pytest

from tests.cli_fixtures import ROOT, configs_fixture, refused_fixture, untrained_fixture  # noqa: F401
from vaedm_jax import command_line
from vaedm_jax.main import MODES, main
from vaedm_jax.modes import train
from vaedm_jax.runs import rundir


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.ddpm.batchsize=3", ["--config.ddpm.batchsize", "no such setting", "--config.ddpm.batch_size?"]),
        ("--config.ddpm.batchsize 3", ["--config.ddpm.batchsize", "--config.ddpm.batch_size?"]),
        ("--config.foo.bar=1", ["--config.foo.bar", "no such setting", "vaedm_jax/config/settings.py"]),
        ("--config.ddpm=1", ["--config.ddpm", "no such setting"]),
        ("--config.=1", ["no such setting"]),
        ("--config.ddpm.batch_size=abc", ["--config.ddpm.batch_size=abc", "a whole number, such as 8"]),
        ("--config.ddpm.batch_size abc", ["--config.ddpm.batch_size=abc", "a whole number, such as 8"]),
        ("--config.ddpm.batch_size=8.5", ["--config.ddpm.batch_size=8.5", "a whole number"]),
        ("--config.vae.learning_rate=fast", ["--config.vae.learning_rate=fast", "a number"]),
        ("--config.data.flip=maybe", ["--config.data.flip=maybe", "true or false"]),
        ("'--config.ddpm.multipliers=(1,'", ["--config.ddpm.multipliers=(1,", "tuple", "(1,)"]),
        ("--config.ddpm.multipliers=abc", ["ddpm.multipliers", "'abc'", "a whole number"]),
        ("--config.ddpm.multipliers=()", ["ddpm.multipliers", "at least one"]),
        ("--config.ddpm.batch_size", ["--config.ddpm.batch_size", "value"]),
        ("--stages=vae", ["--stages", "--stage?"]),
        ("--xyzzy=1", ["--xyzzy", "--help"]),
        ("--mode=trian", ["--mode=trian", "train", "sample"]),
        ("--stage=first", ["--stage=first", "vae", "ddpm", "all"]),
        ("--mode=sample --stage=vae", ["--stage=vae", "--mode=train"]),
        ("--mode=sample --from=a.ckpt", ["--from=a.ckpt", "--mode=import or export", "leave it out"]),
        ("--out=a.ckpt", ["--out=a.ckpt", "--mode=import or export", "--mode=train"]),
        ("--mode=export --out=a.pt", ["mode 'export' has no run directory", "leave --workdir out", "--from"]),
        ("--targets=cpu", ["--targets=cpu", "--mode=plan"]),
        ("--mode=figures --distributed=0/2@localhost:1", ["--distributed", "--mode=train or sample or evaluate"]),
        ("--distributed=", ["--distributed=: it must be 'auto', or K/N@HOST:PORT"]),
        ("--config=", ["--config is empty"]),
        ("train", ["'train'", "--NAME=VALUE"]),
        ("-- train", ["'train'", "--NAME=VALUE"]),
        ("--flagfile={tmp}/none", ["{tmp}/none"]),
    ],
)
def test_the_error_of_a_wrong_argument_says_what_would_be_right(refused, arguments, words):
    refused("--config={configs}/tiny.py --workdir={new} " + arguments, *words)


def test_a_missing_work_directory_is_asked_for(refused):
    refused("--config={configs}/tiny.py", "--workdir=DIR is missing")
    refused("--config={configs}/tiny.py --workdr={new}", "--workdr", "--workdir?")
    refused("--config={configs}/tiny.py --workdir", "--workdir", "value")


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_a_work_directory_that_is_a_file_is_refused(refused, tmp_path, mode):
    (tmp_path / "file").write_text("mine")
    refused("--config={configs}/tiny.py --workdir={tmp}/file --mode=" + mode, "{tmp}/file is a file", "folder")
    refused("--config={configs}/tiny.py --workdir={tmp}/file/below --mode=" + mode, "{tmp}/file is a file")


def test_help_prints_the_flags_and_succeeds(capsys):
    assert main(["main", "--help"]) == 0
    printed = capsys.readouterr()
    assert all(flag in printed.out for flag in ("--config", "--workdir", "--mode", "--stage")) and not printed.err


@pytest.mark.parametrize(
    "form",
    ["--config={} --workdir={}", "--config {} --workdir {}", "-config={} -workdir={}", "-config {} -workdir {}"],
)
def test_every_form_of_a_flag_is_understood(tmp_path, configs, untrained, form):
    arguments = form.format(configs / "tiny.py", tmp_path / "new") + " --config.ddpm.steps=3 -config.vae.steps 4"
    assert main(["main", "--config.seed=7", *arguments.split(), "--config.data.flip", "--mode=train"]) == 0
    assert untrained == [("vae", 4), ("ddpm", 3)]
    config = rundir.read_config(tmp_path / "new")
    assert config.seed == 7 and config.data.flip


def test_the_last_value_of_a_setting_counts(tmp_path, configs):
    given = "--config.eval.steps=2 --config.eval.n=5 --config.eval.steps 4,6 --config.eval.n=7 --config.eval.steps=(3,)"
    argv = ["main", f"--workdir={tmp_path}", f"--config={configs}/tiny.py", "--config.figures.steps=9", *given.split()]
    config = command_line.parse(argv, MODES, train.STAGES).config
    assert (config.eval.steps, config.eval.n, config.figures.steps) == ((3,), 7, (9,))


def test_the_process_exits_with_the_status_and_one_line(tmp_path):
    command = [sys.executable, "-m", "vaedm_jax.main", "--config=configs/emoji.py", f"--workdir={tmp_path}/new"]
    done = subprocess.run([*command, "--config.ddpm.batch=3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("vaedm: --config.ddpm.batch: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_reader_that_goes_ends_the_process_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vaedm_jax.main", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_before_training_leaves_no_traceback_and_no_directory(refused, monkeypatch):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", interrupt)
    refused("--config={configs}/tiny.py --workdir={new}", "interrupted", status=130)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "disk/file"), 1, ["disk/file", "No space left", "free some"]),
        (PermissionError(errno.EACCES, "Permission denied", "disk/file"), 2, ["disk/file", "Permission denied"]),
    ],
)
def test_a_disk_error_names_the_file_and_prints_no_traceback(refused, monkeypatch, error, status, words):
    def fail(config):
        raise error

    monkeypatch.setattr(train, "load", fail)
    refused("--config={configs}/tiny.py --workdir={new}", *words, status=status)
