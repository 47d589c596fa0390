"""Images as arrays: the ranges of their values, and the random numbers that belong to each of them.

Every image has a key of its own, so that what is drawn for it depends on neither the batch nor the devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.errors import UserError


def fold(keys: jax.Array, i: int) -> jax.Array:
    """The i-th of the keys that follow from each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)


def draw(keys: jax.Array, i: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], the i-th draw of each key."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 images in [0, 1], which is what the VAE sees."""
    return images.astype(jnp.float32) / 255


def to_symmetric(x: jax.Array) -> jax.Array:
    """Images in [0, 1] in [-1, 1], which is what the DDPM sees."""
    return 2 * x - 1


def sample_keys(seed: jax.Array, indices: jax.Array) -> jax.Array:
    """The key of every sample, from the seed and its index."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)


def condition_keys(seed: jax.Array, indices: jax.Array) -> jax.Array:
    """The keys of what images lose by chance, by index [B]."""
    return fold(sample_keys(seed, indices), 2)


def to_uint8(images) -> np.ndarray:
    """Floats in [0, 1] of any shape as uint8 in 0 ... 255, clipped and rounded; NaN is 0. uint8 passes as is.

    Raises UserError for any other integers, whose range nobody can know.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "bui":
        raise UserError(f"a picture of {images.dtype}: must be uint8, or floats in [0, 1]")
    return np.rint(255 * np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1)).astype(np.uint8)
