"""Features without training: the means of fixed random convolutions.

They do not favour the data that a network was trained on. They suit images that are not like photographs
(arXiv 2002.09797, section 4).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

DEPTHS, WIDTH = 4, 24


def kernels() -> list[np.ndarray]:
    """Return the kernels of each depth, float32 [3, 3, I, WIDTH].

    Each filter of the second half sums to zero in every channel, so it sees edges and noise but not plain colours. The
    gain gives all depths a share in a distance. The numbers come from RandomState, whose stream NumPy has frozen
    (NEP 19). The stream of jax.random has changed before, and the stream of NumPy's Generator may change.
    """
    rng, layers = np.random.RandomState(0), []
    for inputs in (3, *[WIDTH] * (DEPTHS - 1)):
        kernel = rng.standard_normal((3, 3, inputs, WIDTH)) * np.sqrt(3 / (9 * inputs))
        kernel[..., WIDTH // 2 :] -= kernel[..., WIDTH // 2 :].mean(axis=(0, 1))
        layers.append(kernel.astype(np.float32))
    return layers


def random_features(images: jax.Array) -> tuple[jax.Array, None]:
    """Return the features, float32 [B, 96], of uint8 images [B, H, W, 3], and None in place of logits.

    H and W must be at least 8. The features are global means at four depths. Each depth has half the resolution of the
    one before.
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
