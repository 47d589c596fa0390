"""Which files under a folder are images: all that Pillow reads, each once; the rest is counted, by ending."""

import os

import pytest
from PIL import Image, features

from tests.cli_fixtures import cache, configs_fixture, refused_fixture, run_fixture, untrained_fixture  # noqa: F401
from tests.loading import data_config, load_error
from tests.pictures import noise, save
from tests.tiny import tiny_config
from vaedm_jax import data, rundir
from vaedm_jax.data.listing import images_under
from vaedm_jax.main import main

SAVED = {
    "jfif": "JPEG",
    "jpe": "JPEG",
    "ppm": "PPM",
    "pgm": "PPM",
    "tga": "TGA",
    "dib": "DIB",
    "pcx": "PCX",
    "qoi": "QOI",
}


def names(root, **how):
    return images_under(root, "data.path", **how).names


@pytest.mark.parametrize("ending", [*SAVED, "jp2", "avif", "webp"])
def test_every_ending_that_pillow_reads_is_an_image(tmp_path, ending):
    kind = SAVED.get(ending, {"jp2": "JPEG2000"}.get(ending, ending.upper()))
    Image.init()
    if kind not in Image.SAVE or not features.check({"jp2": "jpg_2000"}.get(ending, "zlib")):
        pytest.skip(f"this Pillow does not write {kind}")
    for i in range(3):
        noise(16, i).convert("L" if ending == "pgm" else "RGB").save(tmp_path / f"{i}.{ending.upper()}", kind)
    dataset = data.load(data_config(path=str(tmp_path), image_size=16))
    assert len(dataset.train) + len(dataset.test) == 3


def test_what_is_left_out_is_counted_by_ending(tmp_path, capsys):
    for name in ("a.png", "b.txt", "c.TXT", "d.eps", "e", "sub/f.mpg", ".hidden.txt", "g\n.x\ny"):
        save(tmp_path / name, noise(8)) if name == "a.png" else (tmp_path / name).parent.mkdir(exist_ok=True)
        name == "a.png" or (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a.png"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "6 files" in said
    for part in ("2 .txt", "1 .eps", "1 without an ending", "1 .mpg", r"1 .x\ny"):
        assert part in said


def test_a_file_that_starts_other_programs_is_not_opened_whatever_it_is_called(tmp_path):
    save(tmp_path / "a.png", noise(8))
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    message = load_error(path=str(tmp_path), image_size=8)
    assert "b.png" in message and "its format is none that is known" in message


def test_links_to_folders_are_followed_and_no_file_is_taken_twice(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for i in range(3):
        save(root / "in" / f"{i}.png", noise(8, i))
        save(other / f"{i}.png", noise(8, 10 + i))
    (root / "a").symlink_to(other)
    (root / "b").symlink_to(other)
    (root / "again").symlink_to(root / "in")
    (root / "in" / "loop").symlink_to(root)
    (other / "loop").symlink_to(other)
    (other / "back").symlink_to(root)
    (root / "0.png").symlink_to(root / "in" / "0.png")
    (root / "itself").symlink_to(root / "itself")
    os.link(root / "in" / "0.png", root / "in" / "hard.png")  # another name that somebody gave on purpose
    expected = ["a/0.png", "a/1.png", "a/2.png", "in/0.png", "in/1.png", "in/2.png", "in/hard.png"]
    assert names(root) == expected
    assert len(set(names(root))) == len(names(root))


def test_a_run_of_before_reads_what_it_read(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    save(root / "a.png", noise(8))
    noise(8).save(root / "b.ppm")
    save(other / "c.png", noise(8))
    (root / "linked").symlink_to(other)
    (root / "d.png").symlink_to(root / "a.png")
    assert names(root) == ["a.png", "b.ppm", "linked/c.png"]
    assert names(root, every_format=False) == ["a.png", "d.png"]
    rundir.claim(tmp_path / "run", tiny_config())
    stored = rundir.read_config(tmp_path / "run")
    assert stored.data.every_format is True
    text = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace('"every_format": true,', ""))
    assert rundir.read_config(tmp_path / "run").data.every_format is False


def test_the_pictures_of_a_run_directory_among_images_are_left_out(run, tmp_path, capsys):
    for i in range(2):
        save(tmp_path / f"{i}.png", noise(8, i))
        save(run / "samples" / f"{i}.png", noise(8, 10 + i))
    assert names(tmp_path) == ["0.png", "1.png"]
    assert f"{run} is a run directory" in capsys.readouterr().out
    assert names(run / "samples") == ["0.png", "1.png"], "a folder of samples may be read on purpose"
    save(run / "mine.png", noise(8))
    assert names(run) == ["mine.png"]
    (run / "config.json").write_text('{"model": "of somebody else"}')
    assert len(names(tmp_path)) == 5


def test_a_new_directory_among_the_images_is_refused(refused, tmp_path, untrained, configs):
    for i in range(40):
        save(tmp_path / "pics" / f"{i}.png", noise(16, i))
    (tmp_path / "to_pics").symlink_to(tmp_path / "pics")
    train = "--config={configs}/tiny.py --config.data.category= --config.data.path={tmp}/pics --workdir={tmp}/"
    for inside in ("pics", "pics/run", "pics/deep/run", "to_pics/run", "pics/../pics/run"):
        refused(train + inside, "--workdir=", "data.path", "elsewhere")
    restore = "--config={configs}/tiny.py --mode=restore --config.sample.weights=emoji"
    refused(restore + " --config.restore.files={tmp}/pics --workdir={tmp}/pics/run", "restore.files", "elsewhere")
    beside = [f"--config={configs}/tiny.py", "--config.data.category=", f"--config.data.path={tmp_path}/pics"]
    assert main(["main", *beside, f"--workdir={tmp_path}/pics2"]) == 0
