"""3x3 convolutions with fewer products, for CPUs: F(2x2, 3x3) of Lavin and Gray (arXiv 1509.09308).

A 2x2 square of the output depends on 4x4 pixels. Its direct convolution takes 36 products for each pair of channels.
The transforms below, which only add, reduce them to 16: one product for each of the 4x4 numbers of the transformed
pixels and kernel. So a convolution becomes 16 matrix products. In float32 the results differ by rounding errors.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

NUMBERS = ("NHWC", "HWIO", "NHWC")
# With fewer channels, the sums take longer than what is saved of the products. The gradient of a kernel needs more.
NARROW, NARROW_GRADIENT = 64, 128

Line = list[jax.Array]


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any) -> jax.Array:
    """Return what `jax.lax.conv_general_dilated` returns. It has the place of that function in `nn.Conv`."""
    suits = (
        kernel.shape[:2] == (3, 3)
        and min(kernel.shape[2:]) >= NARROW
        and x.dtype == jnp.float32
        and tuple(strides) == (1, 1)
        and (padding == "SAME" or [tuple(side) for side in padding] == [(1, 1), (1, 1)])
        and not (x.shape[1] % 2 or x.shape[2] % 2)
    )
    plain = partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    return convolve_3x3(x, kernel) if suits else plain(x, kernel)


@jax.custom_vjp
def convolve_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution of x [B, H, W, C], H and W even, with a kernel [3, 3, C, F], padded: [B, H, W, F].

    Other platforms than CPUs compute it as they always do.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=forward, default=direct)


def backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients with respect to x and the kernel."""

    def on_cpu(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_x = forward(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
        suits = min(kernel.shape[2:]) >= NARROW_GRADIENT
        return of_x, of_kernel(x, dy) if suits else transposed(partial(direct, x), kernel, dy)

    def elsewhere(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return transposed(partial(direct, kernel=kernel), x, dy), transposed(partial(direct, x), kernel, dy)

    return jax.lax.platform_dependent(*saved, dy, cpu=on_cpu, default=elsewhere)


convolve_3x3.defvjp(lambda x, kernel: (convolve_3x3(x, kernel), (x, kernel)), backward)


def transposed(linear: Callable[[jax.Array], jax.Array], of: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of a linear function. Unlike `jax.vjp`, this does not compute the function too."""
    return jax.linear_transpose(linear, of)(dy)[0]


def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution as XLA computes it."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the convolution by 16 matrix products."""
    B, H, W, C = x.shape
    products = jnp.matmul(pixels(x), on_both_axes(g, kernel).reshape(16, C, -1))
    squares = on_both_axes(a_t, products.reshape(4, 4, B, H // 2, W // 2, -1))
    return squares.transpose(2, 3, 0, 4, 1, 5).reshape(B, H, W, -1)


def of_kernel(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient with respect to the kernel: the transposes of the steps of `forward`."""
    B, H, W, F = dy.shape
    squares = dy.reshape(B, H // 2, 2, W // 2, 2, F).transpose(2, 4, 0, 1, 3, 5)
    changes = on_both_axes(a, squares).reshape(16, -1, F)
    return on_both_axes(g_t, jnp.einsum("tnc,tnf->tcf", pixels(x), changes).reshape(4, 4, -1, F))


def pixels(x: jax.Array) -> jax.Array:
    """Return the transformed pixels of each 4x4 square, one every two pixels: [16, B H W / 4, C]."""
    _, H, W, C = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack(b_t([x[:, i : i + H - 1 : 2] for i in range(4)]))
    return jnp.stack(b_t([rows[:, :, :, j : j + W - 1 : 2] for j in range(4)]), axis=1).reshape(16, -1, C)


def on_both_axes(transform: Callable[[Line], Line], x: jax.Array) -> jax.Array:
    """Apply a transform of lists along the first axis of an array, and then along its second."""
    x = jnp.stack(transform(list(x)))
    return jnp.stack(transform([x[:, j] for j in range(x.shape[1])]), axis=1)


# The matrices of the paper, section 4.1, as functions of lists, and their transposes.


def b_t(d: Line) -> Line:
    """Return B^T d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def g(k: Line) -> Line:
    """Return G k."""
    outer, inner = (k[0] + k[2]) / 2, k[1] / 2
    return [k[0], outer + inner, outer - inner, k[2]]


def g_t(u: Line) -> Line:
    """Return G^T u."""
    outer, inner = (u[1] + u[2]) / 2, (u[1] - u[2]) / 2
    return [u[0] + outer, inner, outer + u[3]]


def a_t(m: Line) -> Line:
    """Return A^T m."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def a(y: Line) -> Line:
    """Return A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
