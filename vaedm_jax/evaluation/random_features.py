"""Features that nobody trained: the means of fixed random convolutions.

They favour no data that a network was trained on, and suit images unlike photographs (arXiv 2002.09797, section 4).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

DEPTHS, WIDTH = 4, 24


def kernels() -> list[np.ndarray]:
    """Those of each depth, float32 [3, 3, I, WIDTH].

    The second half of the filters sum to zero in every channel: they see edges and noise, and not the colours around.
    The gain gives all depths a share in a distance. The numbers are those of RandomState, whose stream NumPy has frozen
    (NEP 19); that of jax.random has changed before, and that of NumPy's Generator may.
    """
    rng, layers = np.random.RandomState(0), []
    for inputs in (3, *[WIDTH] * (DEPTHS - 1)):
        kernel = rng.standard_normal((3, 3, inputs, WIDTH)) * np.sqrt(3 / (9 * inputs))
        kernel[..., WIDTH // 2 :] -= kernel[..., WIDTH // 2 :].mean(axis=(0, 1))
        layers.append(kernel.astype(np.float32))
    return layers


def random_features(images: jax.Array) -> tuple[jax.Array, None]:
    """uint8 [B, H, W, 3], H and W at least 8, to features [B, 96] float32; None in the place of a classifier's logits.

    The global means at four depths, each at half the resolution of the one before.
    """
    x, means = images.astype(jnp.float32) / 127.5 - 1, []
    for depth, kernel in enumerate(kernels()):
        x = nn.avg_pool(x, (2, 2), (2, 2)) if depth else x
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
        colours, edges = jnp.split(x, 2, axis=-1)
        x = jnp.concatenate([nn.relu(colours), jnp.abs(edges)], axis=-1)
        means.append(x.mean(axis=(1, 2)))
    return jnp.concatenate(means, axis=-1), None
