"""A grid shows each image in its place, and a PNG holds its pixels and its caption."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.pictures import BLUE, GREEN, RED, solid
from vaedm_jax import reporting
from vaedm_jax.errors import UserError


def box(picture, colour):
    """Return (left, top, right, bottom) of the pixels of one colour, and whether they fill that box."""
    found = (np.asarray(picture) == colour).all(-1)
    ys, xs = np.nonzero(found)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return (left, top, right, bottom), found.sum() == (right - left) * (bottom - top)


def test_every_grey_level_survives_conversion_to_float_and_back():
    levels = np.arange(256, dtype=np.uint8)
    assert (reporting.to_uint8(levels / 255) == levels).all()
    assert (reporting.to_uint8(levels) == levels).all()


def test_floats_are_rounded_and_clipped_and_nan_is_black():
    given = [-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0, np.inf, np.nan]
    assert reporting.to_uint8(np.array(given, np.float32)).tolist() == [0, 0, 0, 1, 255, 255, 255, 0]


def test_integers_of_unknown_range_are_refused():
    with pytest.raises(UserError, match="int64"):
        reporting.to_uint8(np.zeros((2, 2), np.int64))


def test_grid_puts_each_image_where_it_belongs():
    picture = reporting.grid([solid(RED, GREEN), solid(BLUE) / 255.0], scale=3)
    (red, red_full), (green, green_full), (blue, blue_full) = (box(picture, c) for c in (RED, GREEN, BLUE))
    assert red_full and green_full and blue_full
    assert all((b[2] - b[0], b[3] - b[1]) == (24, 24) for b in (red, green, blue))
    assert green[1] == red[1] and green[0] > red[2], "the same row, with a gap between"
    assert blue[0] == red[0] and blue[1] > red[3], "the next row, with a gap between"
    assert (np.asarray(picture)[: red[1]] == 255).all()


def test_enlargement_repeats_pixels():
    image = np.random.default_rng(0).integers(0, 200, (1, 4, 5, 3), np.uint8)
    found = np.asarray(reporting.grid([image], scale=2))[2:-2, 2:-2]
    assert (found == np.kron(image[0], np.ones((2, 2, 1), np.uint8))).all()


@pytest.mark.parametrize("width, shown", [(8, 64), (28, 84), (32, 64), (48, 96), (64, 64), (128, 128)])
def test_small_tiles_are_enlarged_by_default_and_others_are_not(width, shown):
    (left, _, right, _), _ = box(reporting.grid([solid(RED, width=width)]), RED)
    assert right - left == shown


def test_labels_stand_at_the_left_of_their_rows():
    rows = [solid(RED, width=64, height=64), solid(BLUE, width=64, height=64)]
    picture = np.asarray(reporting.grid(rows, labels=["x̂", ""]))
    (left, top, _, bottom), _ = box(picture, RED)
    (_, second, _, _), _ = box(picture, BLUE)
    assert left > 10
    assert (picture[top:bottom, :left] < 100).any(), "the first row's text"
    assert (picture[second:, :left] == 255).all(), "the second has none"


@pytest.mark.parametrize(
    "rows, labels",
    [
        ([], None),
        ([solid(RED), solid(RED, width=9)], None),
        ([np.zeros((8, 8, 3))], None),
        ([solid(RED)], ["a", "b"]),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, labels):
    with pytest.raises(UserError, match="must be"):
        reporting.grid(rows, labels)


@pytest.mark.parametrize(
    "n, columns, lengths", [(9, None, [3, 3, 3]), (7, None, [3, 3, 1]), (5, 4, [4, 1]), (0, None, [])]
)
def test_tile_keeps_the_order_in_near_square_rows(n, columns, lengths):
    rows = reporting.tile(np.arange(n), columns)
    assert [len(row) for row in rows] == lengths
    assert [i for row in rows for i in row] == list(range(n))


@pytest.mark.parametrize("caption", ["", "64 samples, seed 0", "x̂ → x, η = 1\nof a name with a new line <b>"])
def test_a_png_carries_its_pixels_and_its_caption_on_one_line(tmp_path, caption):
    path = tmp_path / "new" / "folder" / "a.png"
    reporting.save_png(path, Image.fromarray(solid(BLUE)[0]), caption)
    assert reporting.read_caption(path) == caption.replace("\n", "\\n")
    with Image.open(path) as image:
        assert (np.asarray(image) == solid(BLUE)[0]).all()
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_plain_caption_is_a_text_chunk(tmp_path):
    reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(RED)[0]), "seed 0")
    assert b"tEXtDescription\0seed 0" in (tmp_path / "a.png").read_bytes()


def test_a_write_that_is_cut_short_leaves_the_old_picture(tmp_path, monkeypatch):
    reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(RED)[0]), "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(BLUE)[0]), "new")
    assert reporting.read_caption(tmp_path / "a.png") == "old"
    assert list(tmp_path.glob("*.png")) == [tmp_path / "a.png"]


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    with pytest.raises(UserError, match=r"a\.png"):
        reporting.read_caption(tmp_path / "a.png")
