"""An image file of any size, mode and orientation becomes the RGB pixels that a viewer shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.loading import data_config
from tests.pictures import BLUE, GREEN, RED, YELLOW, noise, save
from vaedm_jax import data


def quadrants(size: int) -> Image.Image:
    """Return an image with red and green quadrants above, and blue and yellow ones below."""
    image = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)
    return Image.fromarray(image.repeat(size // 2, 0).repeat(size // 2, 1))


def load_one(root: Path, size: int) -> np.ndarray:
    """Load the only image of a folder."""
    dataset = data.load(data_config(path=str(root), image_size=size))
    assert len(dataset.train) == 1
    return np.asarray(dataset.train[0])


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    save(tmp_path / "a.png", noise(8))
    np.testing.assert_array_equal(load_one(tmp_path, 8), noise(8))


def test_the_short_side_is_scaled_and_the_centre_is_cropped(tmp_path):
    wide = Image.fromarray(np.array([[RED, GREEN, GREEN, BLUE]], np.uint8).repeat(16, 0).repeat(8, 1))
    save(tmp_path / "wide.png", wide)
    image = load_one(tmp_path, 8).astype(int)
    assert image.shape == (8, 8, 3)
    assert np.abs(image[:, 2:-2] - GREEN).max() <= 1
    assert np.abs(image - GREEN).mean() < 16


def test_detail_finer_than_a_pixel_is_averaged(tmp_path):
    checkerboard = np.indices((256, 256)).sum(0) % 2 * 255
    save(tmp_path / "a.png", Image.fromarray(checkerboard.astype(np.uint8)))
    assert np.abs(load_one(tmp_path, 16).astype(int) - 128).max() <= 2


def test_a_large_jpeg_is_reduced_to_the_averages_of_its_pixels(tmp_path):
    ramp = np.add.outer(np.arange(512), np.arange(512)) / 1022 * 255
    pixels = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], -1).astype(np.uint8)
    save(tmp_path / "a.jpg", Image.fromarray(pixels), quality=95)
    expected = pixels.reshape(16, 32, 16, 32, 3).mean((1, 3))
    assert np.abs(load_one(tmp_path, 16) - expected).max() < 4


# For each EXIF orientation, the colours at the top left, top right, bottom left and bottom right.
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
def test_photographs_are_turned_as_their_exif_orientation_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.jpg", quadrants(32), exif=exif, quality=95, subsampling=0)
    seen = load_one(tmp_path, 32)[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    assert np.abs(seen - TURNS[orientation]).max() < 6


def translucent(mode: str) -> tuple[Image.Image, dict]:
    """Return a blue (or black) image, opaque on the left and transparent on the right, and the options to save it."""
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
def test_transparent_pixels_become_white(tmp_path, mode):
    image, options = translucent(mode)
    save(tmp_path / "a.png", image, **options)
    pixels = load_one(tmp_path, 8)
    assert (pixels[:, :4] == (0 if mode == "LA" else BLUE)).all()
    assert (pixels[:, 4:] == 255).all()


def test_half_transparent_pixels_are_blended_with_white(tmp_path):
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


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (load_one(tmp_path, 8) == RED).all()
