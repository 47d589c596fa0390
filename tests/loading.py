"""Data settings for tests that load data sets, and the one-line error of a set that cannot be loaded."""

import pytest
from ml_collections import ConfigDict

from vaedm_jax import data
from vaedm_jax.errors import UserError


def data_config(**changes) -> ConfigDict:
    config = dict(source="emoji", path="", image_size=32, category="", held_out=0.05, flip=False)
    return ConfigDict(config | dict(tfds_dir="", archive="", workers=0, avatars=8192) | changes)


def load_error(**changes) -> str:
    with pytest.raises(UserError) as caught:
        data.load(data_config(**changes))
    message = str(caught.value)
    assert "\n" not in message
    return message
