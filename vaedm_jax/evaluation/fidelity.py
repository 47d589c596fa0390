"""PSNR and SSIM: how close an image is to the true one."""

import jax
import jax.numpy as jnp
import numpy as np

WINDOW, DEVIATION = 11, 1.5  # of the Gaussian window of SSIM, in pixels
C1, C2 = 0.01**2, 0.03**2
ROUNDING = 1 / 510  # the largest error of rounding to 8 bits, in images in [0, 1]


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of images [N, H, W, C] in [0, 1], in dB: [N], at most 54.15.

    The root mean square of the error counts as at least ROUNDING, since images come from files of 8 bits. Without a
    limit one image that is returned unchanged, such as a grey one from its greyscale, would make a mean infinite.
    """
    error = np.mean((np.asarray(images, np.float64) - truth) ** 2, axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, ROUNDING**2))


def blur(size: int) -> np.ndarray:
    """Return a matrix [size - WINDOW + 1, size] that takes Gaussian means along an axis, for all windows inside it."""
    weights = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / DEVIATION**2)
    rows = size - WINDOW + 1
    matrix = np.zeros((rows, size))
    for i in range(rows):
        matrix[i, i : i + WINDOW] = weights / weights.sum()
    return matrix


@jax.jit
def ssim(images: jax.Array, truth: jax.Array) -> jax.Array:
    """Return the structural similarity of images [N, H, W, C] in [0, 1], the mean over the channels: [N].

    This is eq. 13 of Wang et al. (2004). Images must have at least WINDOW pixels a side.
    """
    rows, columns = (jnp.asarray(blur(size), jnp.float32) for size in truth.shape[1:3])

    def mean(x: jax.Array) -> jax.Array:
        return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns, precision="highest")

    a, b = mean(images), mean(truth)
    aa, bb, ab = mean(images**2) - a**2, mean(truth**2) - b**2, mean(images * truth) - a * b
    similarity = (2 * a * b + C1) * (2 * ab + C2) / ((a**2 + b**2 + C1) * (aa + bb + C2))
    return jnp.mean(similarity, axis=(1, 2, 3))
