"""Avatars: a face depends on its number alone, on every machine. Those in the package need no other packages."""

import hashlib
import json
import os
import pickle
from importlib import metadata, util
from pathlib import Path

import numpy as np
import pytest

from tests.loading import data_config, load_error
from vaedm_jax import data
from vaedm_jax.data import avatars, faces
from vaedm_jax.storage import read_arrays

ROOT = Path(__file__).parents[1]
drawing = pytest.mark.skipif(util.find_spec("resvg_py") is None, reason=f"faces are drawn by an extra: {faces.INSTALL}")


def loaded(**changes):
    return data.load(data_config(source="avatars", **changes))


def digest(images):
    return hashlib.sha256(np.asarray(images).tobytes()).hexdigest()[:16]


def small(path, counts=(6, 2), step=4096, **about):
    """Write a file with the first faces of the package and return its path.

    A block has `step` faces; `about` changes the description.
    """
    arrays = read_arrays(avatars.EMBEDDED, avatars.FORMS)
    told = json.loads(arrays["about"]) | dict(zip(("train", "test"), counts, strict=True)) | about
    source = loaded(avatars=counts[0], held_out=counts[1] / counts[0])
    for side, n in zip(("train", "test"), counts, strict=True):
        images = np.asarray(getattr(source, side))
        blocks = [avatars.lzma.compress(images[i : i + step].tobytes()) for i in range(0, n, step)]
        arrays[f"{side}_pixels"] = np.frombuffer(b"".join(blocks), np.uint8)
        arrays[f"{side}_ends"] = np.cumsum([len(block) for block in blocks])
        arrays[f"{side}_labels"] = arrays[f"{side}_labels"][:n]
    np.savez(path, **arrays | {"about": np.array(json.dumps(told))})
    return str(path)


@pytest.fixture
def without(monkeypatch):
    """Pretend that the packages that draw faces are not installed."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)


def test_the_faces_of_the_package_are_those_that_were_published():
    train, test = (side["image"] for side in avatars.sides(0.1))
    assert (len(train), len(test)) == (8192, 819)
    assert digest(train) == "9a93b54d7374bdee" and digest(test) == "7fb4b581e3b777e3"
    assert avatars.EMBEDDED.stat().st_size < 5e6


def test_nearly_all_faces_differ_and_nearly_no_held_out_face_is_trained_on():
    train, test = ([image.tobytes() for image in side["image"]] for side in avatars.sides(0.1))
    assert len({*train, *test}) > 0.998 * (len(train) + len(test))
    assert len(set(test) & set(train)) < 0.01 * len(test)


def test_labels_say_what_is_drawn():
    """Faces with dark glasses are darker around the eyes. Every style has about a fifth of the faces."""
    side = avatars.sides(0.05)[0]
    shares = [np.mean(side["style"] == look.name) for look in faces.LOOKS]
    assert sum(shares) == 1 and np.allclose(shares, 0.2, atol=0.02)
    personas = side["style"] == "personas"
    eyes = side["image"][:, 12:17, 10:22].mean(axis=(1, 2, 3))
    assert eyes[personas & (side["glasses"] == "yes")].mean() < eyes[personas & (side["glasses"] == "no")].mean() - 20
    for label in faces.LABELS:
        assert len(side[label]) == len(side["image"]) and len(np.unique(side[label])) > 1


def test_a_smaller_set_has_the_first_of_the_same_faces():
    few, many = loaded(avatars=100), loaded()
    np.testing.assert_array_equal(few.train, many.train[:100])
    np.testing.assert_array_equal(few.test, many.test[:5])
    assert len(many.train) == 8192 and len(many.test) == 410


@pytest.mark.parametrize("size", [1, 31, 257])
def test_an_unsupported_size_is_an_error_that_gives_the_range(size):
    message = load_error(source="avatars", image_size=size)
    assert f"data.image_size = {size}" in message and "32 to 256" in message


@pytest.mark.parametrize("changes", [dict(avatars=8193), dict(image_size=64), dict(held_out=0.5)])
def test_without_the_drawing_packages_the_error_says_how_to_install_them(changes, without, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = load_error(source="avatars", **changes)
    assert "launch/env.sh avatars" in message and "dicebear-core" in message


def test_another_version_of_the_drawing_packages_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    message = load_error(source="avatars", avatars=9000, archive=str(tmp_path / "new.npz"))
    assert "99.0 is installed" in message and "launch/env.sh avatars" in message


def test_a_file_of_faces_is_read_without_the_drawing_packages(without, tmp_path):
    path = small(tmp_path / "six.npz")
    found = loaded(avatars=5, held_out=0.4, archive=path)
    np.testing.assert_array_equal(found.train, loaded(avatars=5).train)
    assert len(found.test) == 2


@pytest.mark.parametrize(
    "about, changes, words",
    [
        ({}, dict(image_size=64), ["32 pixels", "image_size = 64"]),
        ({}, dict(avatars=7), ["6 avatars", "7"]),
        ({"recipe": "other"}, {}, ["other versions"]),
        ({"train": 7}, {}, ["file of avatars"]),
        ({"size": 10**9}, {}, ["file of avatars"]),
        ({"names": 1}, {}, ["file of avatars", "names"]),
    ],
)
def test_a_file_of_other_faces_is_refused_in_one_line(about, changes, words, tmp_path):
    path = small(tmp_path / "six.npz", **about)
    message = load_error(source="avatars", archive=path, **{"avatars": 6, "held_out": 0.1} | changes)
    assert all(word in message for word in [path, *words])


@pytest.mark.parametrize("harm", ["torn", "block"])
def test_a_damaged_file_is_named(harm, tmp_path):
    path = Path(small(tmp_path / "six.npz"))
    if harm == "torn":
        path.write_bytes(path.read_bytes()[:500])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        arrays["train_pixels"] = arrays["train_pixels"] // 2
        np.savez(path, **arrays)
    assert str(path) in load_error(source="avatars", archive=str(path), avatars=6)


def test_faces_that_do_not_fit_in_memory_are_read_from_disk(monkeypatch, tmp_path):
    path = small(tmp_path / "six.npz")
    kept = loaded(avatars=6, held_out=0.3, archive=path)
    monkeypatch.setattr(avatars, "CACHE_BYTES", 0)
    for _ in range(2):  # the first writes the files, the second finds them
        lazy = loaded(avatars=6, held_out=0.3, archive=path)
        for side in ("train", "test"):
            copy = pickle.loads(pickle.dumps(getattr(lazy, side)))
            np.testing.assert_array_equal(np.stack([copy[i] for i in range(len(copy))]), getattr(kept, side))
    assert not isinstance(lazy.train, np.ndarray)


def test_faces_on_disk_are_all_there_for_a_command_that_takes_more_of_them(monkeypatch, tmp_path):
    path, other = small(tmp_path / "six.npz", step=2), small(tmp_path / "seven.npz", (7, 2), step=2)
    expected = loaded(avatars=7).train
    monkeypatch.setattr(avatars, "block_length", lambda size: 2)
    monkeypatch.setattr(avatars, "CACHE_BYTES", 0)
    for count in (2, 6, 7):
        if count == 7:
            os.replace(other, path)
        found = loaded(avatars=count, held_out=0.2, archive=path).train
        np.testing.assert_array_equal(np.stack([*found]), expected[:count])


def test_faces_that_are_on_disk_are_not_decompressed_again(monkeypatch, tmp_path):
    path, calls = small(tmp_path / "six.npz"), []
    monkeypatch.setattr(avatars, "CACHE_BYTES", 0)
    loaded(avatars=6, held_out=0.3, archive=path)
    monkeypatch.setattr(avatars.lzma, "LZMADecompressor", lambda: calls.append("called"))
    assert loaded(avatars=6, held_out=0.3, archive=path).train[5].any() and not calls


@drawing
def test_drawn_faces_equal_those_of_the_package_for_any_number_of_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(avatars, "BLOCK_BYTES", 16 * 32 * 32 * 3)
    monkeypatch.setattr(avatars, "FEW", 0)
    by_one, by_two = (avatars.draw({"train": 40, "test": 2}, 32, processes) for processes in (1, 2))
    assert by_one.keys() == by_two.keys() and len(by_one["train_ends"]) == 3
    for name, array in by_one.items():
        np.testing.assert_array_equal(by_two[name], array)
    avatars.save(tmp_path / "drawn.npz", by_one)
    found = loaded(avatars=40, held_out=0.05, archive=str(tmp_path / "drawn.npz"))
    monkeypatch.undo()
    np.testing.assert_array_equal(found.train, loaded(avatars=40).train)
    np.testing.assert_array_equal(found.test, loaded(avatars=40).test)


@drawing
@pytest.mark.parametrize("size, expected", [(64, "af07151ddd3e9000"), (256, "bdaa13ea84fe8f99")])
def test_larger_faces_have_known_bits_and_look_like_the_small_ones(size, expected):
    drawn = np.stack([faces.face(0, i, size)[0] for i in range(5)])
    assert digest(drawn) == expected
    blocks = drawn.reshape(5, 8, size // 8, 8, size // 8, 3).mean((2, 4))
    little = np.asarray(loaded(avatars=5).train).reshape(5, 8, 4, 8, 4, 3).mean((2, 4))
    np.testing.assert_allclose(blocks, little, atol=16)


@drawing
def test_drawn_faces_are_kept_and_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = loaded(avatars=3, image_size=48)
    monkeypatch.setattr(avatars, "draw", None)
    again = loaded(avatars=3, image_size=48)
    np.testing.assert_array_equal(first.train, again.train)
    assert again.train.shape == (3, 48, 48, 3) and len(again.test) == 1


@drawing
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_drawn(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(avatars, "draw", None)
    message = load_error(source="avatars", avatars=2, image_size=33, archive=str(tmp_path / "file" / "a.npz"))
    assert "cannot be written" in message


@drawing
def test_drawing_that_is_stopped_leaves_nothing_behind(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(avatars, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        loaded(avatars=2, image_size=33, archive=str(tmp_path / "a.npz"))
    assert not list(tmp_path.iterdir())


def test_a_file_of_faces_may_be_larger_than_other_files_of_arrays(monkeypatch, tmp_path):
    path = small(tmp_path / "six.npz")
    monkeypatch.setattr(avatars, "MOST", 1000)
    monkeypatch.setattr(read_arrays, "__defaults__", (*read_arrays.__defaults__[:-1], 1000))
    assert len(loaded(avatars=6, archive=path).train) == 6


@drawing
def test_every_style_is_free_to_use():
    licences = {look.name: faces.style_file(look.name)["meta"]["license"]["name"] for look in faces.LOOKS}
    assert set(licences.values()) <= {"CC0 1.0", "CC BY 4.0"}


def test_the_readme_and_the_data_name_the_makers_of_the_styles():
    readme = (ROOT / "README.md").read_text()
    said = avatars.embedded().about["attribution"]
    assert len(said) == len(faces.LOOKS)
    makers = ("Micah Lanier", "Webpixels", "Pablo Stanley", "Draftbit", "Johan Melin")
    assert all(maker in text and maker in readme for maker, text in zip(makers, said, strict=True))
