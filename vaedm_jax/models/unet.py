"""The U-Net of stage 2: the network of the DDPM paper (arXiv 2006.11239), which may also see x_hat and take z.

The names of layers (`down_3_res`, `up_0_attn`) have the index of the layer in `input_blocks` or `output_blocks` of the
published PyTorch network. So the table of names in `interop` needs only one line for each kind of layer.
"""

import math
from functools import partial
from itertools import repeat
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaedm_jax.models.layers import Dense, Heads, Norm, UpConv, conv, dropout, softmax, zeros
from vaedm_jax.models.patches import depth_to_space, space_to_depth


class Conventions(NamedTuple):
    """Details in which implementations of the network differ, and for which no weights can make up.

    Attributes:
      freq_shift: the frequencies of the embedding of t are 10000^(-i / (N - freq_shift)), i = 0 ... N - 1.
      downsample_padding: zeros before the rows and the columns of a downsampling convolution. After them there is 1.
      norm_eps: the epsilon of the normalisations.
    """

    freq_shift: int
    downsample_padding: int
    norm_eps: float


# "published": the method's authors, who follow the code of arXiv 2102.09672; "ddpm": the code of the DDPM paper.
CONVENTIONS = {"published": Conventions(0, 1, 1e-5), "ddpm": Conventions(1, 0, 1e-6)}


def timestep_embedding(t: jax.Array, width: int, freq_shift: int = 0) -> jax.Array:
    """Return the sinusoidal embedding of the steps t [B], cosines first: [B, width]."""
    half = width // 2
    frequency = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class ResBlock(nn.Module):
    """A residual block of two convolutions, each after a normalisation.

    Between the convolutions the embedding [B, E] is added, or it scales and shifts the normalised features. `words` are
    the random words of `dropout`; without them there is no dropout.
    """

    features: int
    dropout: float
    scale_shift: bool
    norm_eps: float

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, words: jax.Array | None = None) -> jax.Array:
        h = conv(self.features, "conv_0")(nn.silu(Norm(name="norm_0", epsilon=self.norm_eps)(x)))
        norm_1 = Norm(name="norm_1", epsilon=self.norm_eps)
        emb = Dense(self.features * (2 if self.scale_shift else 1), name="emb")(nn.silu(emb))[:, None, None]
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm_1(h) * (1 + scale) + shift
        else:
            h = norm_1(h + emb)
        h = nn.silu(h) if words is None else dropout(nn.silu(h), self.dropout, words)
        h = conv(self.features, "conv_1", kernel_init=zeros)(h)
        skip = x if x.shape[-1] == self.features else conv(self.features, "skip", kernel=1)(x)
        return skip + h


class Attention(nn.Module):
    """Self-attention over all positions.

    The products of q and k and their softmax are in float32 at least. `jax.nn.dot_product_attention` does the same, but
    would reduce float64 to float32.
    """

    heads: int
    norm_eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        h = Norm(name="norm", epsilon=self.norm_eps)(x).reshape(B, H * W, C)
        q, k, v = Heads(self.heads, name="qkv")(h)
        logits = jnp.einsum("bqnc,bknc->bnqk", q, k, preferred_element_type=jnp.promote_types(h.dtype, jnp.float32))
        weights = softmax(logits / math.sqrt(q.shape[-1]), h.dtype)
        h = jnp.einsum("bnqk,bknc->bqnc", weights, v)
        h = nn.Dense(C, kernel_init=zeros, name="proj")(h.reshape(B, H * W, C))
        return x + h.reshape(B, H, W, C)


class UNet(nn.Module):
    """The network F(x_t, t; x_hat, z, k). `diffusion/prediction.py` defines what it predicts.

    Attributes:
      channels: the width of the first level.
      multipliers: the width of each level, in units of `channels`.
      blocks: the number of residual blocks per level.
      attention: the downsampling factors of the levels with attention (2: half the size). The middle always has it.
      heads: the number of attention heads.
      dropout: the dropout rate inside the residual blocks.
      scale_shift: the embedding scales and shifts the output of the second normalisation of a residual block. If False,
        it is added to the input of that normalisation.
      conventions: one of CONVENTIONS.
      patch: the network works on patches of this size (space to depth). The published network has 1.
      precision: the dtype of the computation; see `models.apply`.
      remat: recompute the blocks for the gradient instead of keeping their intermediate results.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 1
    dropout: float = 0.0
    scale_shift: bool = False
    conventions: str = "published"
    patch: int = 1
    precision: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        x_hat: jax.Array | None = None,
        z: jax.Array | None = None,
        keys: jax.Array | None = None,
        k: jax.Array | None = None,
    ) -> jax.Array:
        """Return the prediction for each image: [B, H, W, C].

        Args:
          x: noisy images [B, H, W, C]; H and W must be divisible by patch * 2**(levels - 1).
          t: steps [B] of the T-step chain, counted from 0; they may be fractional.
          x_hat: images [B, H, W, C] that are concatenated to x.
          z: latents [B, D]; their embedding is added to that of t.
          keys: random keys [B] for dropout; without them there is no dropout.
          k: the numbers of steps [B] by which x_hat is noised; their embedding is added to that of t.
        """
        widths = [self.channels * m for m in self.multipliers]
        image_channels = x.shape[-1]
        freq_shift, before, norm_eps = CONVENTIONS[self.conventions]
        once = nn.remat if self.remat else lambda block: block
        res = partial(once(ResBlock), dropout=self.dropout, scale_shift=self.scale_shift, norm_eps=norm_eps)
        attention = partial(once(Attention), self.heads, norm_eps)
        embed = partial(timestep_embedding, width=self.channels, freq_shift=freq_shift)
        words = repeat(None)
        if keys is not None and self.dropout:  # two words for each residual block and image, drawn at once
            n = 2 + len(widths) * (2 * self.blocks + 1)
            words = iter(jax.vmap(lambda key: jax.random.bits(key, (n, 2), jnp.uint32), out_axes=1)(keys))

        emb = Dense(4 * self.channels, name="time_0")(embed(t).astype(self.precision))
        emb = Dense(4 * self.channels, name="time_1")(nn.silu(emb))
        if z is not None:
            z = Dense(4 * self.channels, name="z_0")(z.astype(self.precision))
            emb += Dense(4 * self.channels, name="z_1")(nn.silu(z))
        if k is not None:
            k = Dense(4 * self.channels, name="k_0")(embed(k).astype(self.precision))
            emb += Dense(4 * self.channels, name="k_1")(nn.silu(k))

        h = x if x_hat is None else jnp.concatenate([x, x_hat], axis=-1)
        h = conv(self.channels, "conv_in")(space_to_depth(h.astype(self.precision), self.patch))
        skips, i = [h], 0
        for level, width in enumerate(widths):
            for _ in range(self.blocks):
                i += 1
                h = res(width, name=f"down_{i}_res")(h, emb, next(words))
                h = attention(name=f"down_{i}_attn")(h) if 2**level in self.attention else h
                skips.append(h)
            if level < len(widths) - 1:
                i += 1
                h = conv(width, f"down_{i}_pool", stride=2, before=before)(h)
                skips.append(h)

        h = res(widths[-1], name="mid_0_res")(h, emb, next(words))
        h = attention(name="mid_1_attn")(h)
        h = res(widths[-1], name="mid_2_res")(h, emb, next(words))

        i = 0
        for level, width in reversed(list(enumerate(widths))):
            for block in range(self.blocks + 1):
                h = res(width, name=f"up_{i}_res")(jnp.concatenate([h, skips.pop()], axis=-1), emb, next(words))
                h = attention(name=f"up_{i}_attn")(h) if 2**level in self.attention else h
                if level and block == self.blocks:
                    h = UpConv(width, name=f"up_{i}_unpool")(h)
                i += 1

        h = nn.silu(Norm(name="norm_out", epsilon=norm_eps)(h))
        h = conv(image_channels * self.patch**2, "conv_out", kernel_init=zeros)(h)
        return depth_to_space(h, self.patch).astype(jnp.promote_types(h.dtype, jnp.float32))
