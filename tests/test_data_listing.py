"""The images under a folder are all files that Pillow reads, each once. Other files are counted by ending."""

import json
import os

import pytest
from PIL import Image, features

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, untrained_fixture  # noqa: F401
from tests.loading import data_config, load_error
from tests.pictures import noise, save
from tests.tiny import tiny_config
from vaedm_jax import data
from vaedm_jax.data.listing import images_under
from vaedm_jax.data.shards import Shard, write_shard
from vaedm_jax.main import main
from vaedm_jax.reporting import save_png, write_report
from vaedm_jax.reporting.pictures import read_caption
from vaedm_jax.runs import rundir

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


def test_files_that_are_left_out_are_counted_by_ending(tmp_path, capsys):
    for name in ("a.png", "b.txt", "c.TXT", "d.eps", "e", "sub/f.mpg", ".hidden.txt", "g\n.x\ny"):
        save(tmp_path / name, noise(8)) if name == "a.png" else (tmp_path / name).parent.mkdir(exist_ok=True)
        name == "a.png" or (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a.png"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "6 files" in said
    for part in ("2 .txt", "1 .eps", "1 without", "1 .mpg", r"1 .x\ny"):
        assert part in said


def test_a_format_that_starts_other_programs_is_refused_under_any_name(tmp_path):
    save(tmp_path / "a.png", noise(8))
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    message = load_error(path=str(tmp_path), image_size=8)
    assert "b.png" in message and "format" in message


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
    os.link(root / "in" / "0.png", root / "in" / "hard.png")  # somebody gave the second name on purpose
    expected = ["a/0.png", "a/1.png", "a/2.png", "in/0.png", "in/1.png", "in/2.png", "in/hard.png"]
    assert names(root) == expected
    assert len(set(names(root))) == len(names(root))


def test_an_earlier_run_reads_the_same_files_as_before(tmp_path):
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


def test_a_new_run_directory_among_the_images_is_refused(refused, tmp_path, untrained, configs):
    for i in range(40):
        save(tmp_path / "pics" / f"{i}.png", noise(16, i))
    (tmp_path / "to_pics").symlink_to(tmp_path / "pics")
    train = "--config={configs}/tiny.py --config.data.category= --config.data.path={tmp}/pics --workdir={tmp}/"
    for inside in ("pics", "pics/run", "pics/deep/run", "to_pics/run", "pics/../pics/run"):
        refused(train + inside, "--workdir=", "data.path", "elsewhere")
    restore = "--config={configs}/tiny.py --mode=restore --config.sample.weights=avatars"
    refused(restore + " --config.restore.files={tmp}/pics --workdir={tmp}/pics/run", "restore.files", "elsewhere")
    beside = [f"--config={configs}/tiny.py", "--config.data.category=", f"--config.data.path={tmp_path}/pics"]
    assert main(["main", *beside, f"--workdir={tmp_path}/pics2"]) == 0


def test_unprintable_names_are_read_and_reported_on_one_line(tmp_path, capsys):
    """Names with bytes that are not UTF-8, newlines and escape sequences. The files are read, left out or broken."""
    odd = [os.fsdecode(b"caf\xe9\n.png"), "a\x1b[2J.png", "b\u2028c.png"]
    for i, name in enumerate(odd):
        save(tmp_path / "in\nside" / name, noise(16, i))
    (tmp_path / os.fsdecode(b"left\xff.t\nxt")).write_text("")
    config = data_config(path=str(tmp_path), image_size=16)
    dataset = data.load(config)
    assert len(dataset.train) + len(dataset.test) == 3 and json.dumps(dataset.identity)
    assert capsys.readouterr().out.count("\n") == 1
    shard = Shard(str(tmp_path), tuple(names(tmp_path)), 16, tmp_path / "broken.json", 2**20)
    write_shard(shard, tmp_path / "records")
    assert json.loads((tmp_path / "broken.json").read_text()) == {}
    save_png(tmp_path / "out" / odd[0], noise(8), odd[0])
    assert read_caption(tmp_path / "out" / odd[0]) == r"caf\xe9\n.png"
    (tmp_path / odd[0]).write_bytes(b"")
    message = load_error(path=str(tmp_path), image_size=16)
    assert message.isprintable() and r"caf\xe9\n.png" in message
    (tmp_path / odd[0]).unlink()
    os.mkfifo(tmp_path / odd[0])
    message = load_error(path=str(tmp_path), image_size=16)
    assert message.isprintable() and r"caf\xe9\n.png is a named pipe" in message


def test_a_run_in_a_directory_with_an_unprintable_name_has_a_report(tmp_path):
    workdir = tmp_path / os.fsdecode(b"r\xe9\nun")
    rundir.claim(workdir, tiny_config(**{"data.path": str(workdir / "pics"), "data.category": ""}))
    page = write_report(workdir).read_bytes().decode()
    assert r"<h1>r\xe9\nun</h1>" in page and rundir.read_config(workdir).data.path == str(workdir / "pics")
