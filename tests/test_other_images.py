"""A run continues only with the images that it was trained on, wherever the command is started."""

import json
import shutil

import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture, untrained_fixture  # noqa: F401
from tests.loading import data_config
from tests.pictures import noise, save
from tests.tiny import tiny_config
from vaedm_jax import data
from vaedm_jax.api import VAEDM
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.features import space
from vaedm_jax.evaluation.judge import Judge
from vaedm_jax.main import main
from vaedm_jax.modes.shared.models import configured, load_training_images
from vaedm_jax.runs.identity import trained_on
from vaedm_jax.runtime.mesh import make_mesh

COUNT = 80


def fill(folder, first=0):
    for i in range(COUNT):
        save(folder / f"{i:03d}.png", noise(16, first + i))
    return folder


@pytest.fixture(name="trained_in")
def trained_in_fixture(tmp_path, configs, untrained, monkeypatch):
    """Train with `data.path=pics` in a folder that has these images, and return the run directory."""
    fill(tmp_path / "here" / "pics")
    fill(tmp_path / "there" / "pics", 1000)
    monkeypatch.chdir(tmp_path / "here")
    options = ["--config.data.path=pics", "--config.data.category="]
    assert main(["main", f"--config={configs}/tiny.py", "--workdir=run", *options]) == 0
    return tmp_path / "here" / "run"


def identity(folder, **changes):
    return data.load(data_config(path=str(folder), image_size=16, **changes)).identity


def test_a_relative_path_is_the_same_folder_for_later_commands(trained_in, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path / "there")
    stored = json.loads((trained_in / "images.json").read_text())
    assert main(["main", f"--workdir={trained_in}"]) == 0
    assert json.loads((trained_in / "images.json").read_text()) == stored
    assert stored["folder"] == str(tmp_path / "here" / "pics")


def test_other_images_under_the_same_name_are_refused_and_nothing_is_changed(trained_in, configs, refused, monkeypatch):
    monkeypatch.chdir(trained_in.parents[1] / "there")
    command = "--config={configs}/tiny.py --workdir={tmp}/here/run --config.data.category= --config.data.path=pics"
    refused(command, "other images", "{tmp}/there/pics", "{tmp}/here/pics", "--config.data.changed=True")


@pytest.mark.parametrize("change", ["replaced", "added", "removed", "renamed"])
def test_a_change_of_a_single_file_is_found(trained_in, refused, change):
    """A sample of 64 of the 80 images would miss this file."""
    file = trained_in.parent / "pics" / "002.png"
    if change == "replaced":
        save(file, noise(16, 5000))
    elif change == "added":
        save(file.with_name("new.png"), noise(16, 5000))
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("zzz.png"))
    refused("--workdir={tmp}/here/run", "was trained on", "--config.data.changed=True")


def test_an_intended_change_is_allowed_for_one_command_and_reported(trained_in, capsys, refused):
    save(trained_in.parent / "pics" / "new.png", noise(16, 5000))
    assert main(["main", f"--workdir={trained_in}", "--config.data.changed=True"]) == 0
    assert f"trained on the {COUNT} images, and" in capsys.readouterr().out
    assert main(["main", f"--workdir={trained_in}"]) == 0, "they are the images of the run from here on"
    save(trained_in.parent / "pics" / "newer.png", noise(16, 5001))
    capsys.readouterr()
    refused("--workdir={tmp}/here/run", "--config.data.changed=True")


def test_a_run_continues_after_its_images_have_moved(trained_in, tmp_path, refused):
    shutil.move(tmp_path / "here" / "pics", tmp_path / "elsewhere")
    refused("--workdir={tmp}/here/run", "{tmp}/here/pics is not there")
    assert main(["main", f"--workdir={trained_in}", f"--config.data.path={tmp_path}/elsewhere"]) == 0


@pytest.mark.parametrize("content", [None, "null", '{"train": 1}', "{"])
def test_an_earlier_run_without_the_digest_continues_and_a_damaged_digest_is_named(trained_in, refused, content):
    kept = trained_in / "images.json"
    if content is None:
        kept.unlink()
    else:
        kept.write_text(content)
    if content in (None, "null"):
        assert main(["main", f"--workdir={trained_in}"]) == 0
        assert trained_on(trained_in)["train"]["images"] > 0
    else:
        refused("--workdir={tmp}/here/run", "{tmp}/here/run/images.json", "may be removed")


def test_a_digest_of_an_earlier_version_identifies_its_images_too(trained_in, refused, tmp_path, capsys):
    kept = trained_in / "images.json"
    stored = json.loads(kept.read_text())
    old = {side: stored[side] for side in ("train", "held_out")}
    kept.write_text(json.dumps(old))
    assert main(["main", f"--workdir={trained_in}"]) == 0
    assert json.loads(kept.read_text()) == stored
    kept.write_text(json.dumps(old))
    capsys.readouterr()
    refused(f"--workdir={{tmp}}/here/run --config.data.path={tmp_path}/there/pics", "other images")


def test_every_mode_that_loads_the_images_compares_them(tmp_path, capsys):
    """They all call `load_training_images`. A file of weights also identifies its images, but not their folder."""
    config = tiny_config("uncond", **{"data.path": str(fill(tmp_path / "pics")), "data.category": ""})
    seen = data.load(config.data).identity
    models = [VAEDM(config, {}, {}, images=images) for images in (seen, None)]
    models[0].save(tmp_path / "m.safetensors")
    models.append(configured(VAEDM.from_checkpoint(tmp_path / "m.safetensors"), config))
    assert models[2].images == seen | {"folder": ""}
    assert len(load_training_images(config, *models).train) == seen["train"]["images"]
    save(tmp_path / "pics" / "002.png", noise(16, 5000))
    assert load_training_images(config, models[1])
    for model in (models[0], models[2]):
        with pytest.raises(UserError, match="other images"):
            load_training_images(config, model)
    config.data.changed = True
    assert load_training_images(config, models[0]) and "data.changed = True" in capsys.readouterr().out


def test_images_are_identified_by_their_content_and_not_by_how_or_where_they_are_read(tmp_path):
    fill(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = identity(tmp_path / "a"), identity(tmp_path / "b", workers=2)
    assert one | {"folder": ""} == other | {"folder": ""} and one["files"]


def test_statistics_of_features_are_refused_if_any_file_has_changed(tmp_path):
    def judge():
        return Judge(space("tests.tiny_features:means"), make_mesh(), 8, load(), "train", tmp_path / "reference")

    def load():
        return data.load(data_config(path=str(tmp_path / "pics"), image_size=16))

    fill(tmp_path / "pics")
    np.testing.assert_array_equal(judge().reference.features, judge().reference.features)
    train = load().train
    # An image that a sample of 64 would miss.
    outside = min(set(range(len(train))) - {int(i) for i in np.linspace(0, len(train) - 1, 64)})
    save(tmp_path / "pics" / f"{train.items[outside]:03d}.png", noise(16, 5000))
    with pytest.raises(UserError, match=r"train.npz: .*files is"):
        judge()
