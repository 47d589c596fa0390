"""The U-Net of stage 2: that of the DDPM paper, which may be shown x_hat beside x_t and may take z.

Layer names carry the index of the published PyTorch network's `input_blocks` and `output_blocks`
(`down_3_res`, `up_0_attn`), which keeps the table of names in `interop` one line for each kind of layer.
"""

import math
from functools import partial
from itertools import repeat

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from vaedm_jax.models.patches import depth_to_space, space_to_depth

dense_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")  # as in the DDPM paper's code
Dense = partial(nn.Dense, kernel_init=dense_init)
zeros = nn.initializers.zeros_init()


def conv(features: int, name: str, kernel: int = 3, stride: int = 1, kernel_init=dense_init) -> nn.Conv:
    pad = (kernel - 1) // 2  # on both sides: with a stride, "SAME" would pad one side only
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        padding=((pad, pad), (pad, pad)),
        kernel_init=kernel_init,
        name=name,
    )


def timestep_embedding(t: jax.Array, width: int) -> jax.Array:
    """Sinusoids of the steps t [B], cosines first: [B, width]."""
    half = width // 2
    frequency = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def dropout(x: jax.Array, rate: float, words: jax.Array) -> jax.Array:
    """x [B, H, W, C] with zeros in a share `rate` of its places and the others scaled up, by two words [B, 2], uint32.

    The bits of a place in an image are a hash of it and of the image's words (triple32 of
    https://github.com/skeeto/hash-prospector). Those of Threefry take a sixth of a train step on a TPU, since each
    gradient draws them anew.
    """
    first, second = (words[:, i].reshape(-1, 1, 1, 1) for i in range(2))
    bits = jax.lax.iota(jnp.uint32, x[0].size).reshape(1, *x.shape[1:]) + first
    bits = ((bits ^ (bits >> 17)) * jnp.uint32(0xED5AD4BB)) ^ second
    bits = (bits ^ (bits >> 11)) * jnp.uint32(0xAC4C1B51)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x31848BAB)
    kept = (bits ^ (bits >> 14)) > jnp.uint32(rate * (2**32 - 1))
    return jnp.where(kept, x / max(1 - rate, 1e-9), 0)


class Norm(nn.Module):
    """Group normalisation (arXiv 1803.08494) of images [B, ..., C], in float32 at least.

    Each channel of an image is multiplied by a number, and another is added: two sums over its pixels are all that
    either way needs.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, *pixels, C = x.shape
        wide = jnp.promote_types(x.dtype, jnp.float32)
        params = self.param("scale", nn.initializers.ones, (C,)), self.param("bias", zeros, (C,))
        # Behind a barrier, since XLA would else not add up the sums of images, but the pixels of all images once more.
        each = [jnp.broadcast_to(a.astype(wide), (B, *[1] * len(pixels), C)) for a in params]
        scale, bias = jax.lax.optimization_barrier(each)

        def mean(a: jax.Array) -> jax.Array:
            """Over the pixels of an image and the channels of a group, for each channel."""
            a = a.mean(range(1, x.ndim - 1)).reshape(B, self.groups, -1).mean(-1)
            return jnp.repeat(a, C // self.groups, axis=-1).reshape(scale.shape)

        h = x.astype(wide)
        mu = mean(h)
        factor = scale * jax.lax.rsqrt(jnp.maximum(mean(h * h) - mu * mu, 0) + self.epsilon)
        return (h * factor + (bias - mu * factor)).astype(x.dtype)


class ResBlock(nn.Module):
    """Two normalised convolutions; the embedding [B, E] is added between them, or scales and shifts there.

    `words` are those of `dropout`; without them there is none.
    """

    features: int
    dropout: float
    scale_shift: bool

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, words: jax.Array | None = None) -> jax.Array:
        h = conv(self.features, "conv_0")(nn.silu(Norm(name="norm_0")(x)))
        emb = Dense(self.features * (2 if self.scale_shift else 1), name="emb")(nn.silu(emb))[:, None, None]
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = Norm(name="norm_1")(h) * (1 + scale) + shift
        else:
            h = Norm(name="norm_1")(h + emb)
        h = nn.silu(h) if words is None else dropout(nn.silu(h), self.dropout, words)
        h = conv(self.features, "conv_1", kernel_init=zeros)(h)
        skip = x if x.shape[-1] == self.features else conv(self.features, "skip", kernel=1)(x)
        return skip + h


class UpConv(nn.Module):
    """A 3x3 convolution of x at twice its size (nearest neighbour), with the parameters of `nn.Conv`.

    Of the nine pixels that it looks at, four are the same as others: four 2x2 convolutions at the size of x, one for
    each pixel of a square, take 4/9 of the operations.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", dense_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias)

        def seen(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
            """The weights of two neighbours, for the first and for the second pixel of a pair."""
            a, b, c = jnp.split(kernel, 3, axis)
            return jnp.concatenate([a, b + c], axis), jnp.concatenate([a + b, c], axis)

        def part(kernel: jax.Array, r: int, s: int) -> jax.Array:
            pad = (1 - r, r), (1 - s, s)
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        B, H, W, _ = x.shape
        parts = [part(k, r, s) for r, rows in enumerate(seen(kernel, 0)) for s, k in enumerate(seen(rows, 1))]
        h = jnp.stack(parts) + bias.reshape(1, 1, 1, 1, -1)
        h = h.reshape(2, 2, B, H, W, self.features).transpose(2, 3, 0, 4, 1, 5)
        return h.reshape(B, 2 * H, 2 * W, self.features)


class Heads(nn.Module):
    """q, k and v [B, N, heads, C / heads] of x [B, N, C], with the parameters of a `nn.Dense` of 3 C features.

    Those of a head lie side by side, head after head. Three products leave nothing to be put together for the gradient.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        C = x.shape[-1]
        kernel = self.param("kernel", dense_init, (C, 3 * C))
        bias = self.param("bias", zeros, (3 * C,))
        x, kernel, bias = promote_dtype(x, kernel, bias)
        kernel = kernel.reshape(C, self.heads, 3, C // self.heads)
        bias = bias.reshape(1, 1, self.heads, 3, C // self.heads)
        return [jnp.einsum("bnc,chd->bnhd", x, kernel[:, :, i]) + bias[:, :, :, i] for i in range(3)]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(logits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The softmax of logits [..., N], rounded to a dtype.

    The gradient follows from what is rounded. So a compiler need not keep the logits, which are wider, for it.
    """
    return nn.softmax(logits).astype(dtype)


@softmax.defjvp
def softmax_jvp(dtype: jnp.dtype, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (change,) = tangents
    weights = softmax(*primals, dtype)
    wide = weights.astype(change.dtype)
    return weights, (wide * (change - jnp.sum(wide * change, axis=-1, keepdims=True))).astype(dtype)


class Attention(nn.Module):
    """Self-attention over all positions.

    The products of q and k and their softmax are in float32 at least, as in `jax.nn.dot_product_attention`, which would
    bring float64 down to it.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, H, W, C = x.shape
        h = Norm(name="norm")(x).reshape(B, H * W, C)
        q, k, v = Heads(self.heads, name="qkv")(h)
        logits = jnp.einsum("bqnc,bknc->bnqk", q, k, preferred_element_type=jnp.promote_types(h.dtype, jnp.float32))
        weights = softmax(logits / math.sqrt(q.shape[-1]), h.dtype)
        h = jnp.einsum("bnqk,bknc->bqnc", weights, v)
        h = nn.Dense(C, kernel_init=zeros, name="proj")(h.reshape(B, H * W, C))
        return x + h.reshape(B, H, W, C)


class UNet(nn.Module):
    """F(x_t, t; x_hat, z, k), which is what `diffusion/target.py` makes of it.

    Attributes:
      channels: width of the first level; multipliers: width of every level over it.
      blocks: residual blocks a level.
      attention: downsampling factors at which levels attend (2: at half the size); the middle always does.
      heads: attention heads. dropout: rate inside the residual blocks.
      scale_shift: the embedding scales and shifts the second normalisation, where it is else added before it.
      patch: the network works on patches of this size (space to depth); 1 is the published network.
      precision: what it computes in; see `models.apply`. remat: blocks are computed anew for the gradient, not kept.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 1
    dropout: float = 0.0
    scale_shift: bool = False
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
        """Return an image for each that it is shown.

        Args:
          x: noisy images [B, H, W, C]; H and W are divisible by patch * 2**(levels - 1).
          t: steps [B] of the T-step chain, from 0; may be fractional.
          x_hat: images [B, H, W, C] concatenated to x; z: latents [B, D] added to the time embedding.
          keys: [B], which draw the masks of dropout; without them there is none.
          k: steps [B] by which x_hat was noised, added to the time embedding.
        Returns: [B, H, W, C].
        """
        widths = [self.channels * m for m in self.multipliers]
        image_channels = x.shape[-1]
        once = nn.remat if self.remat else lambda block: block
        res = partial(once(ResBlock), dropout=self.dropout, scale_shift=self.scale_shift)
        attention = partial(once(Attention), self.heads)
        words = repeat(None)
        if keys is not None and self.dropout:  # two for each residual block of each image, drawn at once
            n = 2 + len(widths) * (2 * self.blocks + 1)
            words = iter(jax.vmap(lambda key: jax.random.bits(key, (n, 2), jnp.uint32), out_axes=1)(keys))

        emb = Dense(4 * self.channels, name="time_0")(timestep_embedding(t, self.channels).astype(self.precision))
        emb = Dense(4 * self.channels, name="time_1")(nn.silu(emb))
        if z is not None:
            z = Dense(4 * self.channels, name="z_0")(z.astype(self.precision))
            emb += Dense(4 * self.channels, name="z_1")(nn.silu(z))
        if k is not None:
            k = Dense(4 * self.channels, name="k_0")(timestep_embedding(k, self.channels).astype(self.precision))
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
                h = conv(width, f"down_{i}_pool", stride=2)(h)
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

        h = nn.silu(Norm(name="norm_out")(h))
        h = conv(image_channels * self.patch**2, "conv_out", kernel_init=zeros)(h)
        return depth_to_space(h, self.patch).astype(jnp.promote_types(h.dtype, jnp.float32))
