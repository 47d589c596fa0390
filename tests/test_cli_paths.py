"""Paths on the command line: `~` is expanded, and pipes, devices and dangling links are refused in one line."""

import os
import shlex

import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, untrained_fixture  # noqa: F401

BEGIN = "--config={configs}/tiny.py --workdir={new}"
SAMPLE = BEGIN + " --mode=sample"
SETTINGS = {
    "--workdir": "--config={configs}/tiny.py --workdir=AT",
    "--config": "--config=AT --workdir={new}",
    "data.path": BEGIN + " --config.data.path=AT",
    "vae.checkpoint": BEGIN + " --config.vae.checkpoint=AT",
    "ddpm.init": BEGIN + " --config.ddpm.init=AT",
    "sample.weights": SAMPLE + " --config.sample.weights=AT",
    "sample.prior": SAMPLE + " --config.sample.weights=avatars --config.sample.prior=AT",
    "eval.runs": BEGIN + " --mode=evaluate --config.eval.runs=AT",
    "restore.files": BEGIN + " --mode=restore --config.sample.weights=avatars --config.restore.files=AT",
    "--from": "--mode=import --from=AT --out={tmp}/new.safetensors",
    "--from of export": "--mode=export --from=AT --out={tmp}/new.pt",
}
WRONG = {"fifo": "a named pipe", "to_fifo": "a named pipe", "to_null": "a device", "itself": "leads to itself"}


@pytest.fixture(name="wrong")
def wrong_fixture(tmp_path):
    """Return a folder of entries that are neither files nor folders."""
    folder = tmp_path / "wrong"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "to_fifo").symlink_to("fifo")
    (folder / "to_null").symlink_to("/dev/null")
    (folder / "itself").symlink_to("itself")
    (folder / "dangling\nlink").symlink_to("nowhere")
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_refuses_a_path_that_is_neither_a_file_nor_a_folder(refused, wrong, setting):
    for name, what in WRONG.items():
        refused(SETTINGS[setting].replace("AT", f"{wrong}/{name}"), f"{wrong}/{name}", what)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_name_with_newlines_is_reported_on_one_line(refused, wrong, setting):
    refused(SETTINGS[setting].replace("AT", shlex.quote(f"{wrong}/dangling\nlink")), r"dangling\nlink", "nowhere")


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_unknown_user_and_a_name_that_is_too_long_are_refused(refused, setting):
    refused(SETTINGS[setting].replace("AT", "~nouser/x"), "~nouser", "home")
    refused(SETTINGS[setting].replace("AT", "x" * 300 + ".d/"), "too long")
