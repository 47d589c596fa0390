"""Feature maps as patches: each position holds the channels of a square of `patch` x `patch` pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """Cut a feature map into patches: [B, H, W, C] -> [B, H / patch, W / patch, patch * patch * C]."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // patch, patch, W // patch, patch, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H // patch, W // patch, patch * patch * C)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """Put the patches together again; the inverse of `space_to_depth`."""
    B, H, W, C = x.shape
    x = x.reshape(B, H, W, patch, patch, C // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H * patch, W * patch, C // patch**2)


def patch_kernel(kernel: jax.Array, patch: int) -> jax.Array:
    """Return the kernel [k, k, patch^2 C, patch^2 F] that does to patches what `kernel` does to their pixels.

    Args:
      kernel: [k, k, C, F], k odd.
    """
    k, C, F = kernel.shape[0], *kernel.shape[2:]
    apart, p, r, tap = jnp.ogrid[-(k // 2) : k // 2 + 1, :patch, :patch, :k]
    # 1 for the tap with which pixel p of a patch at distance `apart` contributes to pixel r.
    meets = (patch * apart + p - r + k // 2 == tap).astype(kernel.dtype)
    kernel = jnp.einsum("aprs,bquv,svcf->abpqcruf", meets, meets, kernel)
    return kernel.reshape(k, k, patch**2 * C, patch**2 * F)


class Conv(nn.Module):
    """`nn.Conv` with stride 1 that keeps the size.

    If `patch` is over 1, its input and output are stored as patches. The parameters and the results are the same.
    """

    features: int
    kernel: int
    use_bias: bool
    kernel_init: nn.initializers.Initializer
    patch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.patch**2, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias)
        if self.patch > 1:
            kernel = patch_kernel(kernel, self.patch)
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x if bias is None else x + jnp.tile(bias, self.patch**2).reshape(1, 1, 1, -1)
