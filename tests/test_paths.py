"""Paths of users are expanded in one way. What is not a file, or not a folder, is refused without waiting."""

import os
import socket
from pathlib import Path

import pytest

from vaedm_jax.errors import UserError
from vaedm_jax.storage import paths

NAMES = {
    "a\nb": r"a\nb",
    "a\r\tb": r"a\r\tb",
    "\x1b[31mred": r"\x1b[31mred",
    os.fsdecode(b"caf\xe9.png"): r"caf\xe9.png",
    "right\u202eleft": r"right\u202eleft",
    "a\u2028b": r"a\u2028b",
    "x̂ öß 日本 😀  two spaces": "x̂ öß 日本 😀  two spaces",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_on_one_line_of_printable_characters(name):
    assert paths.shown(Path(name)) == NAMES[name]
    assert paths.shown(name).encode("utf-8").decode().isprintable()


def test_a_path_of_a_user_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert paths.resolve_path("~/pics", "data.path") == tmp_path / "home" / "pics"
    assert paths.resolve_path("~", "data.path") == tmp_path / "home"
    assert paths.resolve_path("pics/in", "data.path") == tmp_path / "pics" / "in"
    assert paths.resolve_path(Path("/there"), "data.path") == Path("/there")
    assert paths.resolve_path("./~", "data.path") == tmp_path / "~"  # a folder whose name is ~
    assert paths.resolve_path(paths.resolve_path("./~", "data.path"), "data.path") == tmp_path / "~"


@pytest.mark.parametrize("written", ["", "~nouser/x", "a\0b", "x" * 300, "/x" * 5000, "\ud800"])
def test_an_impossible_path_is_refused_on_one_line_with_its_setting(written):
    with pytest.raises(UserError) as refused:
        paths.resolve_path(written, "data.path")
    assert str(refused.value).startswith("data.path")
    assert paths.shown(str(refused.value)) == str(refused.value)


@pytest.fixture(name="place")
def place_fixture(tmp_path, monkeypatch):
    """Make a file, a folder, special files, and links to them. Return the folder that has them."""
    monkeypatch.chdir(tmp_path)  # relative names, since the path of a socket must be short
    os.mkfifo("fifo")
    os.mkdir("folder")
    (tmp_path / "file").write_bytes(b"data")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, target in {
            "to_fifo": "fifo",
            "dangling": "no\nwhere",
            "itself": "itself",
            "round": "about",
            "about": "round",
            "to_file": "file",
            "to_folder": "folder",
            "device": "/dev/zero",
        }.items():
            os.symlink(target, name)
        yield tmp_path


NO_FILES = {
    "fifo": "a named pipe",
    "to_fifo": "a named pipe",
    "socket": "a socket",
    "device": "a device",
    "folder": "a folder",
    "dangling": r"no\nwhere, which is not there",
    "itself": "leads to itself",
    "round": "leads to itself",
    "nothing": "is not there",
    "file/below": "is a file, not a folder",
}


@pytest.mark.parametrize("name", NO_FILES)
def test_anything_but_a_regular_file_is_refused_without_waiting(place, name):
    for look in (paths.regular_file, paths.opened):
        with pytest.raises(UserError) as refused:
            look(name, "sample.prior")
        assert str(refused.value).startswith("sample.prior: ") and NO_FILES[name] in str(refused.value)
        assert str(refused.value).isprintable() and str(place / name) in str(refused.value)


@pytest.mark.parametrize("name", ["fifo", "socket", "device", "file", "to_file", "dangling", "itself", "nothing"])
def test_anything_but_a_folder_is_refused(place, name):
    with pytest.raises(UserError, match=r"^data\.path: "):
        paths.folder(name, "data.path")


def test_links_to_files_and_folders_are_followed(place):
    for name in ("file", "to_file"):
        assert paths.regular_file(name, "--from") == place / name
        with paths.opened(name, "--from") as file:
            assert file.read() == b"data"
    for name in ("folder", "to_folder"):
        assert paths.folder(name, "data.path") == place / name


def test_a_pipe_that_takes_the_place_of_a_file_is_refused_without_waiting(place, monkeypatch):
    monkeypatch.setattr(paths, "regular_file", lambda path, *_: Path(path))
    with pytest.raises(UserError, match="no regular file"):
        paths.opened("fifo", "--from")
