"""A folder of images is read whole and left unchanged, and an error names a file that cannot be used."""

import numpy as np
import pytest
from PIL import Image

from tests.loading import data_config, load_error
from tests.pictures import noise, save
from vaedm_jax import data
from vaedm_jax.data import folder, images


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


def test_images_that_exceed_the_cache_are_decoded_again(tmp_path, monkeypatch):
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


def test_only_the_photographs_of_celebamask_hq_are_read(tmp_path):
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


def test_a_text_file_with_the_ending_of_an_image_is_an_error_that_names_it(tmp_path):
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


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_up_to_data_max_pixels(tmp_path, monkeypatch):
    for i, ending in enumerate(("png", "jpg", "bmp", "ppm", "webp")):
        save(tmp_path / f"{i}.{ending}", noise(32, i))
    whole = data.load(data_config(path=str(tmp_path), image_size=8)).train
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above this number and refuses above twice of it
    again = data.load(data_config(path=str(tmp_path), image_size=8, max_pixels=1024)).train
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert Image.MAX_IMAGE_PIXELS == 100, "the limit for all others is left as it was"
    message = load_error(path=str(tmp_path), max_pixels=1023)
    assert "0.png" in message and "32 x 32 pixels" in message and "data.max_pixels = 1,023" in message


def test_a_large_tiff_is_read_although_its_reader_has_a_limit_too(tmp_path, monkeypatch):
    for i in range(2):
        save(tmp_path / f"{i}.tiff", noise(32, i))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError), Image.open(tmp_path / "0.tiff"):
        pass
    monkeypatch.setattr(images, "LARGE", 1000)
    assert len(data.load(data_config(path=str(tmp_path), image_size=8, max_pixels=1024)).train) == 1
    assert Image.MAX_IMAGE_PIXELS == 100, "the limit for all others is left as it was"


def test_a_jpeg_decoded_at_a_reduced_scale_is_near_the_whole_one(tmp_path, monkeypatch):
    """For 64 x 64 pixels, a smooth picture of 1,024 x 1,024 is decoded at an eighth of its size and then resized."""
    x, y = np.meshgrid(np.linspace(0, 6, 1024), np.linspace(0, 4, 1024))
    waves = np.stack([np.sin(x + y), np.cos(x * y / 4), np.sin(y - x)], axis=-1)
    picture = Image.fromarray(np.uint8(np.rint(127.5 + 120 * waves)))
    jpeg, sizes = save(tmp_path / "a.jpg", picture, quality=95), []
    whole = np.asarray(images.square(Image.open(jpeg), 64)).astype(int)
    square = images.square
    monkeypatch.setattr(images, "square", lambda image, size: sizes.append(image.size) or square(image, size))
    reduced = images.read(jpeg, 64).astype(int)
    assert sizes == [(128, 128)]
    assert np.abs(reduced - whole).max() <= 4 and np.abs(reduced - whole).mean() < 0.7


def test_a_folder_without_images_or_no_folder_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    assert "holds no images" in load_error(path=str(tmp_path))
    assert "is not there" in load_error(path=str(tmp_path / "nowhere"))
    assert "is a file; give a folder" in load_error(path=str(tmp_path / "notes.txt"))
