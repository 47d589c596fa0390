"""Images as arrays: the ranges of their values, and their random numbers.

Every image has its own key, so its noise depends on neither the batch size nor the devices.
"""

from functools import partial

import jax
import jax.numpy as jnp


def fold(keys: jax.Array, i: int) -> jax.Array:
    """Return the i-th key that is derived from each of the keys [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)


def draw(keys: jax.Array, i: int, shape: tuple[int, ...]) -> jax.Array:
    """Return standard normal noise [B, *shape]: the i-th draw of each of the keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)


def to_unit(images: jax.Array) -> jax.Array:
    """Convert uint8 images to floats in [0, 1], which the VAE sees."""
    return images.astype(jnp.float32) / 255


def to_symmetric(x: jax.Array) -> jax.Array:
    """Map images from [0, 1] to [-1, 1], which the DDPM sees."""
    return 2 * x - 1


def sample_keys(seed: jax.Array, indices: jax.Array) -> jax.Array:
    """Return the keys [B] of samples of a seed, by their indices [B]."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)


def condition_keys(seed: jax.Array, indices: jax.Array) -> jax.Array:
    """Return the keys [B] of what a condition takes from images at random, by their indices [B]."""
    return fold(sample_keys(seed, indices), 2)
