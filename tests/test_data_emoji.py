"""The emoji are loaded whole or by category, in any size. All skin tones of an emoji are on one side of the split."""

import numpy as np
import pytest

from tests.loading import data_config, load_error
from tests.pictures import noise, save
from vaedm_jax import data
from vaedm_jax.data import emoji


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
def test_a_category_is_split_like_the_whole_set(category, count):
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
    # At half the size, a pixel is about the mean of a block of 2 x 2.
    blocks = sizes[32].train[:].reshape(-1, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(blocks - sizes[16].train).mean() < 8


def test_an_image_size_of_0_is_an_error():
    assert "data.image_size" in load_error(image_size=0)


def test_an_unknown_category_is_an_error_that_lists_the_known_ones():
    message = load_error(category="People")
    assert "'People'" in message and "People & Body" in message and "Flags" in message


def test_a_category_of_a_source_that_has_none_is_an_error():
    assert "no categories" in load_error(category="Flags", source="cifar10")


def test_a_folder_wins_over_the_category(tmp_path):
    save(tmp_path / "mine.png", noise(8))
    assert data.load(data_config(category="Flags", path=str(tmp_path))).name == tmp_path.name
