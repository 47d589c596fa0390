"""Data sets load or say why not, and batches are a pure function of the seed and their number."""

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from vaedm_jax import data
from vaedm_jax.data import cifar10, emoji, folder
from vaedm_jax.data.source import split
from vaedm_jax.errors import UserError

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def data_config(**changes) -> ConfigDict:
    config = dict(source="emoji", path="", image_size=32, category="", held_out=0.05, flip=False)
    return ConfigDict(config | dict(tfds_dir="", archive="") | changes)


def numbered(n: int) -> np.ndarray:
    """n images of 4 x 4, in which green is the image's number and red the pixel's column."""
    images = np.zeros((n, 4, 4, 3), np.uint8)
    images[..., 0] = np.arange(4)
    images[..., 1] = np.arange(n)[:, None, None]
    return images


def numbers(batch: np.ndarray) -> list[int]:
    return batch[:, 0, 0, 1].tolist()


def is_mirrored(batch: np.ndarray) -> np.ndarray:
    return batch[:, 0, 0, 0] == 3


def quadrants(size: int) -> Image.Image:
    """Red and green above, blue and yellow below."""
    image = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)
    return Image.fromarray(image.repeat(size // 2, 0).repeat(size // 2, 1))


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def noise(size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def load_one(root: Path, size: int) -> np.ndarray:
    """The only image of a folder."""
    dataset = data.load(data_config(path=str(root), image_size=size))
    assert len(dataset.train) == 1
    return np.asarray(dataset.train[0])


def load_error(**changes) -> str:
    with pytest.raises(UserError) as caught:
        data.load(data_config(**changes))
    message = str(caught.value)
    assert "\n" not in message
    return message


# Batches


@given(n=st.integers(5, 60), size=st.integers(1, 5), seed=st.integers(0, 2**31), reads=st.data())
@settings(max_examples=10, deadline=None)
def test_a_batch_depends_on_the_seed_and_its_number_alone(n, size, seed, reads):
    source = numbered(n)
    order = reads.draw(st.lists(st.integers(0, 200), min_size=1, max_size=5))
    used = data.pipeline(source, size, seed, flip=True)
    for i in order:
        np.testing.assert_array_equal(used[i], data.pipeline(source, size, seed, flip=True)[i])
        assert used[i].shape == (size, 4, 4, 3) and used[i].dtype == np.uint8


def test_threads_that_share_a_pipeline_get_what_one_gets():
    ds = data.pipeline(numbered(20), 6, 0, flip=True)
    with ThreadPoolExecutor(8) as pool:
        for i, batch in enumerate(pool.map(ds.__getitem__, range(30))):
            np.testing.assert_array_equal(batch, ds[i])


def test_another_seed_gives_another_order():
    orders = [numbers(data.pipeline(numbered(50), 50, seed, flip=False)[0]) for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4


@given(n=st.integers(4, 40), size=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_every_epoch_has_each_image_once_and_batches_run_on_into_the_next(n, size, seed):
    ds = data.pipeline(numbered(n), size, seed, flip=True)
    seen = [number for i in range(-(-3 * n // size)) for number in numbers(ds[i])]
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_every_epoch_has_an_order_of_its_own():
    ds = data.pipeline(numbered(30), 30, 0, flip=False)
    assert len({tuple(numbers(ds[i])) for i in range(4)}) == 4


def test_a_restart_continues_where_the_first_run_would_have():
    first = data.batches(numbered(10), 4, 7, flip=True)
    whole = [next(first) for _ in range(12)]
    second = data.batches(numbered(10), 4, 7, flip=True, start=5)
    for batch in whole[5:]:
        np.testing.assert_array_equal(next(second), batch)


def test_iteration_goes_through_the_pipeline_in_order():
    ds, iterator = (make(numbered(10), 4, 7, flip=True) for make in (data.pipeline, data.batches))
    for i in range(8):
        np.testing.assert_array_equal(next(iterator), ds[i])


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_the_shards_of_the_hosts_together_are_the_batch(hosts):
    ds = data.pipeline(numbered(10), 6, 3, flip=True)
    shards = [data.batches(numbered(10), 6, 3, True, start=2, shard=(k, hosts)) for k in range(hosts)]
    for i in range(2, 6):
        np.testing.assert_array_equal(np.concatenate([next(shard) for shard in shards]), ds[i])


def test_about_half_of_the_images_are_mirrored_anew_in_every_epoch():
    source = numbered(200)
    ds = data.pipeline(source, 200, 0, flip=True)
    plain = data.pipeline(source, 200, 0, flip=False)
    flips = []
    for epoch in range(2):
        mirrored = is_mirrored(ds[epoch])
        expected = np.where(mirrored[:, None, None, None], plain[epoch][:, :, ::-1], plain[epoch])
        np.testing.assert_array_equal(ds[epoch], expected)
        assert 60 < mirrored.sum() < 140
        flips.append(mirrored[np.argsort(numbers(ds[epoch]))])
    assert (flips[0] != flips[1]).any()


def test_without_flip_nothing_is_mirrored():
    ds = data.pipeline(numbered(20), 20, 0, flip=False)
    assert not any(is_mirrored(ds[i]).any() for i in range(3))


@pytest.mark.parametrize("make", [data.pipeline, data.batches])
def test_fewer_images_than_a_batch_takes_is_an_error(make):
    assert make(numbered(4), 4, 0, False) is not None
    with pytest.raises(UserError, match="too few images for a batch: 3, and a batch takes 4"):
        make(numbered(3), 4, 0, False)


def test_a_batch_that_the_hosts_cannot_share_equally_is_an_error():
    with pytest.raises(UserError, match="10 images cannot be divided equally among 4 hosts"):
        data.batches(numbered(20), 10, 0, False, shard=(0, 4))


def test_the_preview_is_the_first_images_and_no_more_than_there_are():
    assert numbers(data.preview(numbered(5), 3)) == [0, 1, 2]
    assert numbers(data.preview(numbered(5), 9)) == [0, 1, 2, 3, 4]


# Held-out images


@given(st.lists(st.text(max_size=8), min_size=1, max_size=40), st.floats(0, 0.99))
@settings(deadline=None)
def test_the_sides_of_a_split_are_disjoint_whole_and_never_empty(keys, held_out):
    train, test = split(keys, held_out)
    assert train.size and test.size
    assert {*train, *test} == set(range(len(keys)))
    if len(set(keys)) > 1:
        assert not {keys[i] for i in train} & {keys[i] for i in test}


def test_a_key_stays_on_its_side_when_others_come():
    keys = [f"photo {i}" for i in range(2000)]
    few = {keys[i] for i in split(keys[:1000], 0.2)[1]}
    many = {keys[i] for i in split(keys, 0.2)[1]}
    assert many & set(keys[:1000]) == few
    assert len(many) == pytest.approx(400, abs=80)


def test_the_split_is_the_same_in_every_process_and_version():
    # The SHA-256 of these letters begin with ca, 3e, 2e, 18, 3f, 25, cd, aa, de, 18; 0.3 of the range is 4c.
    assert split(list("abcdefghij"), 0.3)[1].tolist() == [1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize("share", [-0.1, 1.0, 5])
def test_a_held_out_share_outside_its_range_is_an_error(share):
    assert "data.held_out" in load_error(held_out=share)


# Emoji


def test_all_skin_tones_of_an_emoji_are_on_one_side():
    dataset = data.load(data_config(held_out=0.3))
    sides = [{image.tobytes() for image in side} for side in (dataset.train, dataset.test)]
    tones = {}
    with np.load(emoji.ARCHIVE, allow_pickle=False) as arrays:
        for name, image in zip(arrays["name"], arrays["image"], strict=True):
            tones.setdefault(name, set()).add(image.tobytes())
    assert len(dataset.train) + len(dataset.test) == 3786
    assert sum(len(images) > 1 for images in tones.values()) > 300
    assert all(any(images <= side for side in sides) for images in tones.values())


@pytest.mark.parametrize("category, count", [("People & Body", 2261), ("Component", 5)])
def test_the_split_of_a_category_is_that_of_the_whole(category, count):
    whole, part = data.load(data_config()), data.load(data_config(category=category))
    assert len(part.train) + len(part.test) == count
    assert category in part.name
    for side in ("train", "test"):
        everywhere = {image.tobytes() for image in getattr(whole, side)}
        assert all(image.tobytes() in everywhere for image in getattr(part, side))


def test_emoji_come_in_any_size():
    sizes = {size: data.load(data_config(category="Activities", image_size=size)) for size in (16, 32, 48)}
    for size, dataset in sizes.items():
        assert dataset.train[0].shape == (size, size, 3) and dataset.train[0].dtype == np.uint8
    # Halved, an image is about the mean of its blocks of 2 x 2.
    blocks = sizes[32].train[:].reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(blocks - sizes[16].train).mean() < 8


def test_an_unknown_category_is_an_error_that_names_those_there_are():
    message = load_error(category="People")
    assert "'People'" in message and "People & Body" in message and "Flags" in message


@pytest.mark.parametrize("changes", [{"source": "cifar10"}, {"path": "."}])
def test_a_category_of_a_source_that_has_none_is_an_error(changes):
    assert "no categories" in load_error(category="Flags", **changes)


# Folders


def test_a_folder_is_read_at_every_depth_and_left_as_it_was(tmp_path):
    names = ["a.png", "b/c.JPG", "b/d/e.webp", "f.bmp", "g.gif", "h.tiff", "i.jpeg", "j.tif"]
    for i, name in enumerate(names):
        save(tmp_path / name, noise(9, i))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_bytes(b"no image either")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    dataset = data.load(data_config(path=str(tmp_path), image_size=8))
    assert len(dataset.train) + len(dataset.test) == len(names)
    assert dataset.name == tmp_path.name
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    save(tmp_path / "a.png", noise(8))
    np.testing.assert_array_equal(load_one(tmp_path, 8), noise(8))


def test_path_wins_over_source(tmp_path):
    save(tmp_path / "a.png", noise(8))
    assert data.load(data_config(path=str(tmp_path), source="cifar10")).name == tmp_path.name


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_are_enough_for_both_sides(tmp_path, count):
    for i in range(count):
        save(tmp_path / f"{i}.png", noise(8, i))
    dataset = data.load(data_config(path=str(tmp_path)))
    assert len(dataset.train) and len(dataset.test)
    images = [image.tobytes() for side in (dataset.train, dataset.test) for image in side]
    assert len(set(images)) == count and len(images) == max(count, 2)


def test_the_short_side_is_fitted_and_the_centre_cut_out(tmp_path):
    wide = Image.fromarray(np.array([[RED, GREEN, GREEN, BLUE]], np.uint8).repeat(16, 0).repeat(8, 1))
    save(tmp_path / "wide.png", wide)
    image = load_one(tmp_path, 8).astype(int)
    assert image.shape == (8, 8, 3)
    assert np.abs(image[:, 2:-2] - GREEN).max() <= 1
    assert np.abs(image - GREEN).mean() < 16


def test_what_is_finer_than_the_pixels_is_averaged(tmp_path):
    checkerboard = np.indices((256, 256)).sum(0) % 2 * 255
    save(tmp_path / "a.png", Image.fromarray(checkerboard.astype(np.uint8)))
    assert np.abs(load_one(tmp_path, 16).astype(int) - 128).max() <= 2


def test_a_large_jpeg_looks_like_its_pixels_averaged(tmp_path):
    ramp = np.add.outer(np.arange(512), np.arange(512)) / 1022 * 255
    pixels = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], -1).astype(np.uint8)
    save(tmp_path / "a.jpg", Image.fromarray(pixels), quality=95)
    expected = pixels.reshape(16, 32, 16, 32, 3).mean((1, 3))
    assert np.abs(load_one(tmp_path, 16) - expected).max() < 4


# What is seen at the top left, top right, bottom left and bottom right after each turn that EXIF can ask for.
TURNS = {
    1: (RED, GREEN, BLUE, YELLOW),
    2: (GREEN, RED, YELLOW, BLUE),
    3: (YELLOW, BLUE, GREEN, RED),
    4: (BLUE, YELLOW, RED, GREEN),
    5: (RED, BLUE, GREEN, YELLOW),
    6: (BLUE, RED, YELLOW, GREEN),
    7: (YELLOW, GREEN, BLUE, RED),
    8: (GREEN, YELLOW, RED, BLUE),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_photographs_stand_upright_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.jpg", quadrants(32), exif=exif, quality=95, subsampling=0)
    seen = load_one(tmp_path, 32)[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    assert np.abs(seen - TURNS[orientation]).max() < 6


def translucent(mode: str) -> tuple[Image.Image, dict]:
    """Pure blue (or black), opaque at the left and transparent at the right, and how to save it."""
    layer = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    layer.paste((0, 0, 255, 255), (0, 0, 4, 8))
    if mode == "RGBA":
        return layer, {}
    if mode == "LA":
        black = Image.new("L", (8, 8), 0)
        black.putalpha(layer.getchannel("A"))
        return black, {}
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 255, 9, 9, 9])
    palette.paste(0, (0, 0, 4, 8))
    return palette, {"transparency": bytes([255, 0]) if mode == "P, a table" else 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P, a table", "P, one colour"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image, options = translucent(mode)
    save(tmp_path / "a.png", image, **options)
    pixels = load_one(tmp_path, 8)
    assert (pixels[:, :4] == (0 if mode == "LA" else BLUE)).all()
    assert (pixels[:, 4:] == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    save(tmp_path / "a.png", Image.new("RGBA", (8, 8), (0, 0, 0, 127)))
    assert (load_one(tmp_path, 8) == 128).all()


def grey16(left: int, right: int) -> Image.Image:
    return Image.fromarray(np.array([[left, right]], np.uint16).repeat(8, 0).repeat(4, 1))


@pytest.mark.parametrize(
    "name, image, left, right",
    [
        ("palette.png", quadrants(8).quantize(4), RED, GREEN),
        ("palette.gif", quadrants(8).quantize(4), RED, GREEN),
        ("grey.png", Image.fromarray(np.array([[10, 200]], np.uint8).repeat(8, 0).repeat(4, 1)), 10, 200),
        ("sixteen.png", grey16(0, 65535), 0, 255),
        ("sixteen.tif", grey16(10 * 257, 200 * 257), 10, 200),
        ("bits.png", Image.fromarray(np.arange(8) >= np.full((8, 1), 4)), 0, 255),
        ("print.tif", quadrants(8).convert("CMYK"), RED, GREEN),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, name, image, left, right):
    save(tmp_path / name, image)
    pixels = load_one(tmp_path, 8)
    assert pixels.shape == (8, 8, 3)
    assert (pixels[:4, :4] == left).all() and (pixels[:4, 4:] == right).all()


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (load_one(tmp_path, 8) == RED).all()


def test_images_too_many_to_keep_are_decoded_again(tmp_path, monkeypatch):
    for i in range(5):
        save(tmp_path / f"{i}.png", noise(20, i))
    config = data_config(path=str(tmp_path), image_size=8, held_out=0.4)
    kept = data.load(config)
    monkeypatch.setattr(folder, "CACHE_BYTES", 0)
    again = data.load(config)
    for side in ("train", "test"):
        assert len(getattr(kept, side)) == len(getattr(again, side))
        for one, other in zip(getattr(kept, side), getattr(again, side), strict=True):
            np.testing.assert_array_equal(one, other)
    (tmp_path / "bad.png").write_text("text")
    assert "bad.png" in load_error(path=str(tmp_path))


def test_of_celebamask_hq_only_the_photographs_are_taken(tmp_path):
    photographs = tmp_path / "CelebA-HQ-img"
    for i in range(4):
        save(photographs / f"{i}.jpg", noise(8, i))
        save(tmp_path / "CelebAMask-HQ-mask-anno" / "0" / f"0000{i}_hair.png", Image.new("L", (8, 8)))
    inner, outer = (data.load(data_config(path=str(path))) for path in (photographs, tmp_path))
    assert len(outer.train) + len(outer.test) == 4
    for side in ("train", "test"):
        for one, other in zip(getattr(inner, side), getattr(outer, side), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_damaged_image_is_an_error_that_names_it(tmp_path):
    jpeg = save(tmp_path / "good.jpg", noise(64)).read_bytes()
    (tmp_path / "torn.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    message = load_error(path=str(tmp_path))
    assert "torn.jpg" in message and "truncated" in message and "good" not in message


def test_text_that_is_called_an_image_is_an_error_that_names_it(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_text("this is no picture")
    message = load_error(path=str(tmp_path))
    assert "a.png" in message and "and 2 more" in message


@pytest.mark.parametrize("cut", [0, 20, 60])
def test_a_torn_png_is_an_error(tmp_path, cut):
    whole = save(tmp_path / "a.png", noise(16)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:cut])
    assert "a.png" in load_error(path=str(tmp_path))


def test_an_image_of_unknown_range_is_an_error(tmp_path):
    save(tmp_path / "a.tif", Image.fromarray(np.full((8, 8), 0.5, np.float32)))
    assert "a.tif" in load_error(path=str(tmp_path))


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", noise(32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = load_error(path=str(tmp_path))
    assert "bomb.png" in message and "exceeds limit" in message


def test_a_folder_without_images_or_no_folder_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    assert "holds no images" in load_error(path=str(tmp_path))
    assert "is not there" in load_error(path=str(tmp_path / "nowhere"))
    assert "is not a folder" in load_error(path=str(tmp_path / "notes.txt"))


# CIFAR-10


def cifar_files(n: int = 3) -> dict[str, np.ndarray]:
    """The six files of the archive with n records each, of random pixels: a label, then three planes."""
    rng = np.random.default_rng(0)
    files = {}
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        files[name] = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        files[name][:, 0] %= 10
    return files


def cifar_archive(path: Path, files: dict[str, np.ndarray]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, records in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    return path


def cifar_config(root: Path, archive: Path | str) -> dict:
    return dict(source="cifar10", tfds_dir=str(root / "tfds"), archive=str(archive))


def assert_cifar(dataset: data.Dataset, files: dict[str, np.ndarray]) -> None:
    train = np.concatenate([files[f"data_batch_{i}.bin"] for i in range(1, 6)])
    for source, records in ((dataset.train, train), (dataset.test, files["test_batch.bin"])):
        assert len(source) == len(records)
        for i, record in enumerate(records):
            red, green, blue = record[1:].reshape(3, 32, 32)
            np.testing.assert_array_equal(source[i], np.dstack([red, green, blue]))


def test_cifar10_has_the_pixels_of_its_archive_and_needs_it_once(tmp_path):
    files = cifar_files()
    archive = cifar_archive(tmp_path / "c.tar.gz", files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)
    archive.unlink()
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, ""))), files)


def damaged(path: Path, how: str) -> None:
    files = cifar_files()
    if how == "torn":
        path.write_bytes(cifar_archive(path, files).read_bytes()[:-2000])
    elif how == "no archive":
        path.write_text("<html>404</html>")
    elif how == "incomplete":
        cifar_archive(path, {name: files[name] for name in files if name != "data_batch_4.bin"})
    elif how == "short":
        cifar_archive(path, files | {"data_batch_2.bin": files["data_batch_2.bin"].ravel()[:-1]})
    elif how == "empty":
        cifar_archive(path, files | {"data_batch_2.bin": np.zeros((0, 3073), np.uint8)})
    elif how == "label":
        cifar_archive(path, files | {"test_batch.bin": np.full((2, 3073), 10, np.uint8)})


@pytest.mark.parametrize(
    "how, said",
    [
        ("missing", "is not there"),
        ("torn", "is damaged"),
        ("no archive", "is damaged"),
        ("incomplete", "data_batch_4.bin"),
        ("short", "data_batch_2.bin"),
        ("empty", "data_batch_2.bin"),
        ("label", "test_batch.bin"),
    ],
)
def test_a_wrong_cifar10_archive_is_an_error_and_a_right_one_mends_it(tmp_path, how, said):
    archive = tmp_path / "c.tar.gz"
    damaged(archive, how)
    message = load_error(**cifar_config(tmp_path, archive))
    assert str(archive) in message and said in message
    files = cifar_files()
    cifar_archive(archive, files)
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, archive))), files)


@pytest.fixture
def web_folder(tmp_path, monkeypatch):
    """A folder and the address at which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "web"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_cifar10_is_downloaded_where_no_archive_is_given(tmp_path, web_folder, monkeypatch):
    root, address = web_folder
    monkeypatch.setattr(cifar10, "URL", f"{address}/c.tar.gz")
    message = load_error(**cifar_config(tmp_path, ""))
    assert "404" in message and "data.archive" in message
    cifar_archive(root / "c.tar.gz", cifar_files())
    assert_cifar(data.load(data_config(**cifar_config(tmp_path, ""))), cifar_files())


def test_a_tfds_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "tfds").write_text("a file, not a folder")
    archive = cifar_archive(tmp_path / "c.tar.gz", cifar_files())
    assert "cannot be prepared" in load_error(**cifar_config(tmp_path, archive))


LEAN_RUN = """
import json, multiprocessing, sys
import numpy as np
from ml_collections import ConfigDict
from vaedm_jax import data
config = ConfigDict(json.loads(sys.argv[1]))
dataset = data.load(config)
iterator = data.batches(dataset.train, 4, 0, True)
batches = [next(iterator) for _ in range(3)]
children = len(multiprocessing.active_children())
print(json.dumps({"tensorflow": "tensorflow" in sys.modules, "shape": batches[0].shape, "children": children}))
"""


@pytest.fixture(scope="module")
def lean_run(tmp_path_factory) -> dict:
    """CIFAR-10 prepared and iterated by a program that then just ends, where a package `tensorflow` can be found."""
    root = tmp_path_factory.mktemp("lean")
    (root / "decoy" / "tensorflow").mkdir(parents=True)
    (root / "decoy" / "tensorflow" / "__init__.py").write_text("")
    config = data_config(**cifar_config(root, cifar_archive(root / "c.tar.gz", cifar_files())))
    path = os.pathsep.join([str(root / "decoy"), str(Path(data.__file__).parents[2])])
    command = [sys.executable, "-c", LEAN_RUN, config.to_json()]
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_cifar10_is_prepared_and_read_without_tensorflow_even_if_it_is_installed(lean_run):
    assert lean_run["tensorflow"] is False


def test_iteration_starts_no_process_and_holds_up_no_exit(lean_run):
    assert lean_run["children"] == 0 and lean_run["shape"] == [4, 32, 32, 3]


# Other data sets of tfds


def prepare(root: Path, features: dict, splits: dict[str, list[dict]]) -> None:
    """Prepares a data set named 'tiny_set' under `root`."""

    class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            features_dict = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features_dict, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self): ...

    TinySet(data_dir=root, file_format="array_record").download_and_prepare()


PNG = {"image": tfds.features.Image(encoding_format="png")}


def png_examples(count: int, size: int = 8) -> list[dict]:
    return [{"image": noise(size, i)} for i in range(count)]


@pytest.mark.parametrize("held_out_split", ["test", "validation"])
def test_a_split_for_testing_is_the_held_out_side(tmp_path, held_out_split):
    prepare(tmp_path, PNG, {"train": png_examples(6), held_out_split: png_examples(2)})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8))
    assert dataset.name == "tiny_set"
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    np.testing.assert_array_equal(dataset.train[5], noise(8, 5))


def test_where_there_is_only_train_a_share_is_held_out(tmp_path):
    prepare(tmp_path, PNG, {"train": png_examples(40)})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8, held_out=0.25))
    sides = [{image.tobytes() for image in side} for side in (dataset.train, dataset.test)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {noise(8, i).tobytes() for i in range(40)}
    assert 3 <= len(sides[1]) <= 20


def test_images_of_tfds_may_have_any_size_and_be_grey(tmp_path):
    grey = {"image": tfds.features.Image(shape=(None, None, 1), encoding_format="png")}
    examples = [{"image": Image.new("L", (10 + i, 30), 60 + i)} for i in range(4)]
    prepare(tmp_path, grey, {"train": examples, "test": examples})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8))
    for i in range(4):
        np.testing.assert_array_equal(dataset.train[i], np.full((8, 8, 3), 60 + i))


def test_a_data_set_without_images_is_an_error_that_names_its_features(tmp_path):
    features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    prepare(tmp_path, features, {"train": [{"text": "a", "label": 0}]})
    message = load_error(source="tiny_set", tfds_dir=str(tmp_path))
    assert "no feature 'image'" in message and "text" in message and "label" in message


def test_an_image_that_is_no_picture_is_an_error(tmp_path):
    features = {"image": tfds.features.Tensor(shape=(2,), dtype=np.int64)}
    prepare(tmp_path, features, {"train": [{"image": np.zeros(2, np.int64)}]})
    assert "Tensor" in load_error(source="tiny_set", tfds_dir=str(tmp_path))


def test_a_data_set_without_a_train_split_is_an_error(tmp_path):
    prepare(tmp_path, PNG, {"test": png_examples(2)})
    assert "no split 'train', only test" in load_error(source="tiny_set", tfds_dir=str(tmp_path))


def test_a_data_set_without_random_access_is_an_error_that_says_how_to_prepare_it(tmp_path):
    prepare(tmp_path, PNG, {"train": png_examples(2)})
    for path in tmp_path.glob("tiny_set/1.0.0/*"):  # only TensorFlow can write the other format
        if path.name == "dataset_info.json":
            path.write_text(path.read_text().replace("array_record", "tfrecord"))
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    message = load_error(source="tiny_set", tfds_dir=str(tmp_path))
    assert "--file_format=array_record" in message


def test_a_data_set_that_is_not_prepared_is_an_error_that_says_how(tmp_path):
    message = load_error(source="mnist", tfds_dir=str(tmp_path))
    assert "not prepared" in message and "tfds build mnist --file_format=array_record" in message


@pytest.mark.parametrize("name", ["no_such_set", "mnist:9.9.9", "mnist/no_such_config", "!", ""])
def test_an_unknown_name_is_an_error_that_says_what_to_give(tmp_path, name):
    message = load_error(source=name, tfds_dir=str(tmp_path))
    assert repr(name) in message and "data.path" in message


def test_an_image_size_of_nothing_is_an_error():
    assert "data.image_size" in load_error(image_size=0)
