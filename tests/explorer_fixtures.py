"""A tiny model in the explorer."""

import numpy as np
import pytest

from tests.tiny import random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.modes.explorer.drawing import Explorer
from vaedm_jax.training.stages import ddpm_stage, vae_stage


@pytest.fixture(scope="module", name="explorer")
def explorer_fixture():
    config = tiny_config(**{"sample.start": "warm", "sample.t_start": 700})
    vae = random_params(vae_stage(config), 1)
    model = VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2))
    images = np.random.default_rng(0).random((40, 16, 16, 3), np.float32)
    return Explorer(model, images, make_chain(config.sample))
