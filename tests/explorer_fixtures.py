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
    refiner = random_params(ddpm_stage(config, vae), 2)
    images = np.random.default_rng(0).random((40, 16, 16, 3), np.float32)
    # A fitted prior, so that random z lie where the encoded images do.
    z = VAEDM(config, vae, refiner).encode(images)
    factor = np.linalg.cholesky(np.cov(z.T) + 1e-9 * np.eye(z.shape[1]))
    prior = {"logits": np.zeros(1), "means": z.mean(axis=0)[None], "factors": factor[None]}
    model = VAEDM(config, vae, refiner, prior={name: np.float32(a) for name, a in prior.items()})
    return Explorer(model, images, make_chain(config.sample))
