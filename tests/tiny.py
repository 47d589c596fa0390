"""The smallest configuration with every part, for tests that train, and float64, for tests that compare closely."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vaedm_jax import models
from vaedm_jax.config import base_config
from vaedm_jax.diffusion.prediction import Predict, from_eps
from vaedm_jax.training.stages import Stage

# models.apply(network, params, *inputs, method=...) as one program. Its operations take longer to compile one by one.
apply = jax.jit(models.apply, static_argnums=0, static_argnames="method")
# Changes of a configuration that make the chain short: the bound on log p takes all of its steps.
FIVE_STEPS = {"ddpm.T": 5, "ddpm.beta_1": 0.05, "ddpm.beta_T": 0.4, "ddpm.scale_betas": False}


def tiny_config(variant: str = "form1", **changes) -> ConfigDict:
    """Return a configuration of 16 x 16 pixels and a few thousand parameters, with changes {"ddpm.steps": 3, ...}."""
    c = base_config(variant)
    c.data.image_size, c.data.category = 16, "Activities"
    c.vae.enc_block, c.vae.dec_block = "16d4,16t4,4d4,4t1,1x1", "1u4,1t4,4u4,4t16,16x1"
    c.vae.channels = "16:8,4:8,1:4"
    c.ddpm.channels, c.ddpm.multipliers, c.ddpm.blocks, c.ddpm.attention = 32, (1,), 1, ()
    c.ddpm.patch, c.ddpm.warmup, c.ddpm.dropout = 2, 2, 0.1
    for stage in (c.vae, c.ddpm):
        stage.batch_size, stage.steps = 8, 6
    c.log.update({"every": 2, "pictures": 4, "images": 4, "sample_steps": 2})
    c.checkpoint.every = 3
    c.sample.update({"n": 4, "batch_size": 8, "steps": 2})
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def random_params(stage: Stage, seed: int = 0) -> Any:
    """Return random parameters, without compiling. A new U-Net has zeros, which would hide most gradients."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = max(1, leaf.size // leaf.shape[-1])
        noise = rng.normal(0, fan_in**-0.5 if leaf.ndim > 1 else 0.05, leaf.shape)
        return (noise + (path[-1].key == "scale")).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(stage.init, jax.random.key(0)))


def by_noise(predict_noise: Callable[[jax.Array, jax.Array], jax.Array]) -> Predict:
    """Return a network `predict_noise(u, t)`, which predicts the noise, in the form that a chain needs."""
    return lambda u, level: from_eps(u, level, predict_noise(u, level.t))


@contextmanager
def in_float64() -> Iterator[None]:
    """Do what jax.enable_x64 does, in a way that all supported versions of JAX have."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)
