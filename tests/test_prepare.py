"""Mode `prepare` makes records that train like the folder they are made of. A kill never costs a finished shard."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.cli_fixtures import ROOT, TINY, files
from tests.loading import data_config, load_error
from tests.pictures import noise, save
from vaedm_jax import data
from vaedm_jax.errors import UserError
from vaedm_jax.main import main
from vaedm_jax.runs import rundir


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY)
    return path


def arguments(config: Path, folder: Path, target: Path, *settings: str) -> list[str]:
    path = f"--config.data.path={folder}"
    return ["main", "--mode=prepare", f"--config={config}", path, f"--workdir={target}", *settings]


def pictures(folder: Path, count: int, size: int = 40) -> Path:
    for i in range(count):
        save(folder / "abc"[i % 3] / f"{i}.{('png', 'jpg')[i % 2]}", noise(size, i))
    return folder


@pytest.fixture(scope="module")
def made(config, tmp_path_factory) -> tuple[Path, Path]:
    """Prepare a folder of 20 images and two broken files. Return the folder, now without these, and its records."""
    root = tmp_path_factory.mktemp("made")
    folder = pictures(root / "images", 20)
    (folder / "b" / "torn.jpg").write_bytes((folder / "b" / "1.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    shards = ["--config.prepare.shards=4", "--config.prepare.workers=2"]
    assert main(arguments(config, folder, root / "records", *shards)) == 0
    for name in ("b/torn.jpg", "text.png"):  # with them the folder could not be loaded
        (folder / name).rename(root / Path(name).name)
    return folder, root / "records"


def assert_same(one: data.Dataset, other: data.Dataset) -> None:
    for a, b in ((one.train, other.train), (one.test, other.test)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("held_out", [0.0, 0.4])
def test_records_have_the_images_of_the_folder_and_its_split(made, held_out):
    folder, records = (data.load(data_config(path=str(p), image_size=16, held_out=held_out)) for p in made)
    assert folder.name == records.name == "images"
    assert_same(folder, records)


def test_worker_processes_read_the_folder_and_its_records_alike(made):
    expected = data.pipeline(data.load(data_config(path=str(made[0]), image_size=16)).train, 4, 0, True)
    for path in made:
        train = data.load(data_config(path=str(path), image_size=16, workers=1)).train
        batches = data.batches(train, 4, 0, True, workers=1)
        for n in range(6):
            np.testing.assert_array_equal(next(batches), expected[n])
        batches.close()


def test_broken_files_are_listed_with_the_reason(made):
    broken = json.loads((made[1] / "broken.json").read_text())
    assert broken.keys() == {"b/torn.jpg", "text.png"}
    assert "truncated" in broken["b/torn.jpg"].lower() and "format" in broken["text.png"]


def test_records_are_an_ordinary_data_set_of_tfds(made):
    source = tfds.builder_from_directory(made[1]).as_data_source("train")
    assert len(source) == 20 and source[3]["image"].shape == (16, 16, 3)
    assert len(list(made[1].glob("images-*"))) == 4


def test_a_killed_process_leaves_whole_shards_that_are_kept(config, tmp_path):
    folder, target = pictures(tmp_path / "images", 6), tmp_path / "records"
    # This image takes so long to read that the process is killed before it ends.
    save(folder / "last.png", Image.new("RGB", (7000, 7000)), compress_level=1)
    settings = ["--config.prepare.shards=7", "--config.prepare.workers=1"]
    command = [sys.executable, "-m", "vaedm_jax.main", *arguments(config, folder, target, *settings)[1:]]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(target.glob("images-*"))) < 6:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    whole = {file: file.stat().st_mtime_ns for file in target.glob("images-*")}
    assert "not finished" in load_error(path=str(target), image_size=16)
    (folder / "last.png").unlink()
    save(folder / "last.png", noise(20))
    assert main(arguments(config, folder, target, *settings)) == 0
    assert all(file.stat().st_mtime_ns == before for file, before in whole.items())
    assert_same(*(data.load(data_config(path=str(p), image_size=16)) for p in (folder, target)))
    assert not [file for file in files(target) if "part" in file or file.startswith("broken-")]
    before = files(target)
    assert main(arguments(config, folder, target, *settings)) == 0
    assert files(target) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--workdir={records} --config.data.image_size=32", ["image_size = 16, not 32", "another --workdir"]),
        ("--workdir={records} --config.data.path={other}", ["{folder}, not {other}", "another --workdir"]),
        ("--workdir={records} --config.prepare.shards=5", ["shards = 4, not 5"]),
        ("--workdir={records} --config.data.path={folder}", ["0 new", "2 are gone"]),
        ("--workdir={other} --config.data.path={folder}", ["--workdir={other} ", "new folder"]),
        ("--workdir={folder} --config.data.path={folder}", ["{folder} is the folder of the images"]),
        ("--workdir={new} --config.data.path={records}", ["{records} is already prepared"]),
        ("--workdir={new} --config.data.path={new}", ["{new} is not there"]),
        ("--workdir={new} --config.data.path=", ["data.path is empty", "--config.data.path=DIR"]),
        ("--workdir={new} --config.prepare.workers=-1", ["prepare.workers = -1"]),
        ("--workdir={new} --config.data.path={other}", ["no image in {other} can be read", "a.png"]),
        ("--workdir={new} --config.data.max_pixels=9", ["can be read; the first error", "data.max_pixels = 9"]),
    ],
)
def test_what_cannot_be_prepared_is_refused(config, made, tmp_path, capsys, settings, words):
    save(tmp_path / "other" / "a.png", noise(8)).write_text("no picture")
    folders = dict(folder=made[0], records=made[1], other=tmp_path / "other", new=tmp_path / "new")
    given = ["--config.prepare.shards=4", *settings.format(**folders).split()]
    before = files(made[0]) | files(made[1])
    assert main(arguments(config, made[0], tmp_path / "new", *given)) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word.format(**folders) in said
    assert files(made[0]) | files(made[1]) == before


def test_two_commands_do_not_prepare_the_same_records_at_once(config, tmp_path, capsys):
    command = arguments(config, pictures(tmp_path / "images", 3), tmp_path / "records")
    with rundir.lock(tmp_path / "records"):
        assert main(command) == 2
    assert f"another command writes to {tmp_path / 'records'}; wait until it ends" in capsys.readouterr().err
    assert not list((tmp_path / "records").iterdir())


def test_records_that_do_not_fit_are_an_error_that_says_what_would_fit(config, made, tmp_path, capsys):
    message = load_error(path=str(made[1]), image_size=32)
    assert "prepared at 16 x 16" in message and "--config.data.image_size=16" in message
    few = ["main", f"--config={config}", f"--config.data.path={made[1]}", f"--workdir={tmp_path / 'run'}"]
    assert main([*few, "--config.vae.batch_size=24"]) == 2
    assert "vae.batch_size = 24" in capsys.readouterr().err
    shard = next(made[1].glob("images-*-00002-*"))
    shard.rename(tmp_path / "elsewhere")
    assert f"{shard.name} does not exist" in load_error(path=str(made[1]), image_size=16)
    (tmp_path / "elsewhere").rename(shard)


@pytest.mark.parametrize("damage", ["torn", "flipped"])
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_records_are_an_error_that_names_them(made, tmp_path, damage, workers):
    records = shutil.copytree(made[1], tmp_path / "records")
    for shard in records.glob("images-*"):
        whole = shard.read_bytes()
        shard.write_bytes(whole[:1000] if damage == "torn" else bytes(b ^ 1 for b in whole[:9000]) + whole[9000:])
    with pytest.raises(UserError, match=r"data.path: .*records.* cannot be read .* prepare the data"):
        train = data.load(data_config(path=str(records), image_size=16)).train
        with closing(data.batches(train, 4, 0, False, workers=workers)) as batches:
            next(batches)


def test_records_without_the_names_of_their_images_are_refused(made, tmp_path):
    records = shutil.copytree(made[1], tmp_path / "records")
    (records / "folder.json").unlink()
    assert "folder.json is missing" in load_error(path=str(records), image_size=16)


def test_beam_writes_the_same_files(config, made, tmp_path):
    pytest.importorskip("apache_beam")
    targets = [tmp_path / "processes", tmp_path / "beam"]
    for target, more in zip(targets, ([], ["--config.prepare.beam=runner=DirectRunner"]), strict=True):
        assert main(arguments(config, made[0], target, "--config.prepare.shards=3", *more)) == 0
    one, other = (files(target) for target in targets)
    other.pop("images-train.shard_infos.json")
    for lists in (one, other):
        lists.pop("dataset_info.json")  # its fields are in another order
    assert one == other


def test_without_beam_the_error_says_what_to_install(config, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    assert main(arguments(config, made[0], tmp_path / "new", "--config.prepare.beam=runner=DirectRunner")) == 2
    assert "'.[beam]'" in capsys.readouterr().err
