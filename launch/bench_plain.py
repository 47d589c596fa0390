"""The U-Net of this package from plain Flax modules, as one would write it at first, for launch/bench_jax.py."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaedm_jax.models import layers, unet


class UpConv(nn.Module):
    """Upsampling by 2 (nearest neighbour) and a 3x3 convolution."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(self.features, (3, 3))(x.repeat(2, axis=1).repeat(2, axis=2))


class Heads(nn.Module):
    """The layer that gives q, k and v [B, N, heads, C / heads] of x [B, N, C], by one product."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        B, N, C = x.shape
        h = nn.Dense(3 * C)(x).reshape(B, N, self.heads, 3, C // self.heads)
        return [h[:, :, :, i] for i in range(3)]


def dropout(x: jax.Array, rate: float, words: jax.Array) -> jax.Array:
    """Set a share `rate` of the entries of x [B, H, W, C] to 0, by bits of Threefry, and scale up the others."""
    keep = jax.vmap(lambda w: jax.random.bernoulli(jax.random.wrap_key_data(w), 1 - rate, x.shape[1:]))(words)
    return jnp.where(keep, x / (1 - rate), 0)


def use_plain_modules() -> None:
    """Replace the fast layers of the U-Net in this process. The names of some parameters change."""
    unet.Norm, unet.UpConv, unet.Heads, unet.dropout = partial(nn.GroupNorm, 32), UpConv, Heads, dropout
    layers.convolve = jax.lax.conv_general_dilated
