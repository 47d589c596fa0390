"""Fast layers of the U-Net. Each computes the same as a standard layer, with the same parameters."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from vaedm_jax.models.winograd import convolve

dense_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")  # as in the DDPM paper's code
Dense = partial(nn.Dense, kernel_init=dense_init)
zeros = nn.initializers.zeros_init()


def conv(
    features: int, name: str, kernel: int = 3, stride: int = 1, kernel_init=dense_init, before: int | None = None
) -> nn.Conv:
    """Return a convolution with a kernel of `kernel` x `kernel` and padding on all sides.

    Args:
      before: the padding before the rows and the columns, if it differs from that after them.
    """
    pad = (kernel - 1) // 2  # on both sides; with a stride, "SAME" would pad one side only
    sides = pad if before is None else before, pad
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        padding=(sides, sides),
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        name=name,
    )


def dropout(x: jax.Array, rate: float, words: jax.Array) -> jax.Array:
    """Set a share `rate` of the entries of x [B, H, W, C] to 0, at random, and scale up the others.

    The random bits of an entry are a hash of its position and of the words of its image (triple32 of
    https://github.com/skeeto/hash-prospector). Bits from Threefry would take a sixth of a train step on a TPU, since
    each gradient draws them again.

    Args:
      words: [B, 2], uint32, two random words for each image.
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

    The layer multiplies each channel of an image by one number and adds another. So the forward and the backward pass
    need only two sums over the pixels each.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        B, *pixels, C = x.shape
        wide = jnp.promote_types(x.dtype, jnp.float32)
        params = self.param("scale", nn.initializers.ones, (C,)), self.param("bias", zeros, (C,))
        # The parameters are repeated for each image behind a barrier. Without it, XLA would not compute their gradients
        # from the sums of each image, but would sum over the pixels of all images once more.
        each = [jnp.broadcast_to(a.astype(wide), (B, *[1] * len(pixels), C)) for a in params]
        scale, bias = jax.lax.optimization_barrier(each)

        def mean(a: jax.Array) -> jax.Array:
            """Return the mean over the pixels of an image and the channels of a group, for each channel."""
            a = a.mean(range(1, x.ndim - 1)).reshape(B, self.groups, -1).mean(-1)
            return jnp.repeat(a, C // self.groups, axis=-1).reshape(scale.shape)

        h = x.astype(wide)
        mu = mean(h)
        factor = scale * jax.lax.rsqrt(jnp.maximum(mean(h * h) - mu * mu, 0) + self.epsilon)
        return (h * factor + (bias - mu * factor)).astype(x.dtype)


class UpConv(nn.Module):
    """Upsampling by 2 (nearest neighbour) and a 3x3 convolution, with the parameters of `nn.Conv`.

    The nine pixels under the kernel are copies of only 2x2 pixels of x. So the layer computes four 2x2 convolutions at
    the size of x, one for each pixel of a 2x2 square of the output. They take 4/9 of the operations.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", dense_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias)

        def merged(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
            """Return the weights of two neighbours in x, for the first and for the second pixel of a pair."""
            a, b, c = jnp.split(kernel, 3, axis)
            return jnp.concatenate([a, b + c], axis), jnp.concatenate([a + b, c], axis)

        def part(kernel: jax.Array, r: int, s: int) -> jax.Array:
            """Return pixel (r, s) of each 2x2 square of the output: [B, H, W, features]."""
            pad = (1 - r, r), (1 - s, s)
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        B, H, W, _ = x.shape
        parts = [part(k, r, s) for r, rows in enumerate(merged(kernel, 0)) for s, k in enumerate(merged(rows, 1))]
        h = jnp.stack(parts) + bias.reshape(1, 1, 1, 1, -1)
        h = h.reshape(2, 2, B, H, W, self.features).transpose(2, 3, 0, 4, 1, 5)
        return h.reshape(B, 2 * H, 2 * W, self.features)


class Heads(nn.Module):
    """The layer that gives q, k and v [B, N, heads, C / heads] of x [B, N, C].

    Its parameters are those of a `nn.Dense` with 3 C features, ordered by head, and within a head q before k before v.
    It computes three products, so that the backward pass need not concatenate three gradients.
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
    """Return the softmax of logits [..., N], rounded to a dtype.

    The gradient is computed from the rounded result. So the compiler need not keep the logits, which are wider.
    """
    return nn.softmax(logits).astype(dtype)


@softmax.defjvp
def softmax_jvp(dtype: jnp.dtype, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Return the softmax and its tangent, from the rounded softmax."""
    (change,) = tangents
    weights = softmax(*primals, dtype)
    wide = weights.astype(change.dtype)
    return weights, (wide * (change - jnp.sum(wide * change, axis=-1, keepdims=True))).astype(dtype)
