"""A configuration for own pictures follows from their size and a budget, and is written for a folder."""

import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax.command_line import load
from vaedm_jax.config import flatten
from vaedm_jax.config.checks import check
from vaedm_jax.config.own import BUDGETS, SIZES, own_config, vae_blocks
from vaedm_jax.data.dataset import split
from vaedm_jax.data.folder import list_images
from vaedm_jax.main import main
from vaedm_jax.modes import new
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.stages import ddpm_stage, vae_stage


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("variant", ["form1", "form2", "uncond"])
def test_each_size_has_a_valid_configuration(variant, budget):
    for size in SIZES:
        config = own_config(f"{size}-{budget}-{variant}").unlock()
        config.data.path = "pictures"
        check(config)
        assert (config.data.image_size, config.ddpm.variant) == (size, variant)


@pytest.mark.parametrize("parts", ["form1-48-small", "form1-112-small", "form1-32-base"])
def test_both_networks_take_images_of_the_size(parts):
    config = own_config(parts).unlock()
    config.ddpm.sigma_r = config.ddpm.sigma_data = 0.5
    vae = vae_stage(config)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    size = config.data.image_size
    images, keys = np.zeros((2, size, size, 3), np.uint8), jax.random.split(jax.random.key(0))
    for stage in (vae, ddpm_stage(config, params)):
        weights = jax.eval_shape(stage.init, jax.random.key(0))
        assert jax.eval_shape(stage.held_out, weights, stage.frozen, images, keys)["loss"].shape == (2,)


def test_the_blocks_of_the_vae_halve_the_size_and_double_the_width():
    encoder, decoder, widths = vae_blocks(48, 16, 64, 8)
    assert encoder == "48d2,48t24,24d2,24t12,12x1,12d2,12t6,6x1,6d6,6t1,1x1"
    assert decoder == "1x1,1u6,1t6,6x1,6u2,6t12,12x1,12u2,12t24,24x1,24u2,24t48,48x1"
    assert widths == "48:16,24:32,12:64,6:64,1:8"


@pytest.fixture
def many(folder):
    """Return the folder with 40 copies of each picture, enough for the usual batch on eight devices."""
    for file in list(folder.iterdir()):
        for i in range(1, 40):
            shutil.copy(file, file.with_stem(f"{file.stem}_{i}"))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Return a folder of pictures, half of which have a shorter side of at least 70 pixels."""
    (tmp_path / "my pictures").mkdir()
    for i, side in enumerate((40, 70, 300)):
        Image.fromarray(np.zeros((side, 400, 3), np.uint8)).save(tmp_path / "my pictures" / f"{i}.png")
    return tmp_path / "my pictures"


def test_a_picture_that_cannot_be_opened_is_named_and_left_out(folder, capsys):
    (folder / "text.png").write_text("no picture")
    (folder / "short.webp").write_bytes(b"RIFF\0\0\0\0WEBP")
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(new.shorter_sides(folder, names)) == [40, 70, 300]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("cannot be opened as an image (" in line for line in said)
    assert "short.webp" in said[0] and "text.png" in said[1] and "unknown format" in said[1]


def test_the_written_file_is_the_proposed_configuration(many, tmp_path, monkeypatch, capsys):
    sizes = []

    def measured(stage, size, mesh):
        sizes.append(size)
        return jax.eval_shape(stage.init, jax.random.key(0)), 0.36

    monkeypatch.setattr(new, "measured", measured)
    command = ["main", "--mode=new", f"--config.data.path={many}", f"--workdir={tmp_path / 'run'}"]
    assert main(command) == 0
    said, file = capsys.readouterr().out, tmp_path / "run" / "config.py"
    assert "120 pictures" in said and "at least 70 pixels" in said and "about 1.6 hours" in said and sizes == [64, 64]
    assert f"--config={file} --workdir={tmp_path / 'run'} --mode=train" in said
    changes = {"data.path": str(many), "data.held_out": 0.1}
    assert flatten(load(str(file))) == flatten(own_config("64-small")) | changes
    assert flatten(load(f"{file}:uncond")) == flatten(own_config("64-small-uncond")) | changes
    assert len(file.read_text().splitlines()) < 25

    file.write_text("mine")
    assert main(command) == 0
    assert sorted(p.read_text() == "mine" for p in file.parent.glob("*config*")) == [False, True]


@pytest.mark.parametrize(("pictures", "devices", "batch"), [(20, 8, 16), (20, 1, 16), (120, 3, 66), (20, 7, 14)])
def test_the_proposed_batches_suit_the_pictures_and_the_devices(
    many, tmp_path, monkeypatch, capsys, pictures, devices, batch
):
    """Training refuses a batch that is no multiple of the devices, or that is larger than the training images."""
    for file in sorted(many.iterdir())[pictures:]:
        file.unlink()
    monkeypatch.setattr(new, "measured", lambda stage, size, mesh: (jax.eval_shape(stage.init, jax.random.key(0)), 1.0))
    monkeypatch.setattr(new, "make_mesh", lambda: make_mesh(devices=jax.devices()[:devices]))
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert main(["main", "--mode=new", f"--config.data.path={many}", f"--workdir={tmp_path / 'run'}"]) == 0
    config = load(str(tmp_path / "run" / "config.py"))
    check(config)
    assert config.vae.batch_size == config.ddpm.batch_size == batch
    assert batch <= len(split(list_images(str(many))[1], config.data.held_out)[0])


def test_an_earlier_file_that_is_not_utf_8_is_kept(many, tmp_path, monkeypatch):
    monkeypatch.setattr(new, "measured", lambda stage, size, mesh: (jax.eval_shape(stage.init, jax.random.key(0)), 1.0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.py").write_bytes(b"# fa\xe7ade")
    assert main(["main", "--mode=new", f"--config.data.path={many}", f"--workdir={tmp_path / 'run'}"]) == 0
    assert b"# fa\xe7ade" in [path.read_bytes() for path in (tmp_path / "run").iterdir()]
    assert load(str(tmp_path / "run" / "config.py")).data.path == str(many)


@pytest.mark.parametrize("name", ['three """ quotes', "back\\Nslash", os.fsdecode(b"no\xffutf-8")])
def test_a_folder_of_any_name_gives_a_file_that_can_be_loaded(many, tmp_path, monkeypatch, name):
    monkeypatch.setattr(new, "measured", lambda stage, size, mesh: (jax.eval_shape(stage.init, jax.random.key(0)), 1.0))
    place = many.rename(tmp_path / name)
    assert main(["main", "--mode=new", f"--config.data.path={place}", f"--workdir={tmp_path / 'run'}"]) == 0
    assert load(str(tmp_path / "run" / "config.py")).data.path == str(place)


def test_a_train_step_is_timed_and_gives_parameters():
    stage = vae_stage(tiny_config())
    params, seconds = new.measured(stage, 16, make_mesh())
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes) and 0 < seconds < 60


def test_bad_parts_and_folders_are_refused(refused, tmp_path):
    refused("--config=own:70 --workdir={new}", "'70' is no part", "multiple of 16 from 32 to 256")
    refused("--config=own:huge --workdir={new}", "'huge' is no part", "small, base")
    refused("--mode=new --workdir={new}", "needs the folder of your pictures")
    (tmp_path / "empty").mkdir()
    refused("--mode=new --workdir={new} --config.data.path={tmp}/empty", "holds no images")


def test_fewer_pictures_than_devices_are_refused(refused, folder):
    refused("--mode=new --workdir={new} --config.data.path='{tmp}/my pictures'", "2 training images for 8 devices")
