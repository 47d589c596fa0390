"""Small classifiers of the package's own images. Samples are compared in their features."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vaedm_jax.storage import read_tensors
from vaedm_jax.storage.writing import write_whole

# The labels that each classifier predicts, and the number of classes of each. The Inception Score is computed from the
# first label, because the hair also determines the style.
LABELS = {
    "emoji": {"category": 10},
    "avatars": {"hair": 87, "skin": 23, "mouth": 49, "glasses": 2},
}
SCALES = {"emoji": (6.0, 1.0), "avatars": (8.0, 1 / 3)}
SHIPPED = {name: Path(__file__).with_name(f"{name}_classifier.safetensors") for name in LABELS}


class Classifier(nn.Module):
    """A convolutional network with three resolutions, for images of any size.

    It has no normalisation, so that contrast counts. A classifier learns to ignore blur and noise: its last layer shows
    the content of an image, but hardly these faults. Its first layer shows the faults well. The features are therefore
    global means of both layers.

    Attributes:
      classes: the number of classes of each label.
      scales: the factors of the features of the first and of the last layer. Their ratio makes slight blur or
        noise count about as much in a distance as a few misplaced parts (docs/features.md). Their size gives the
        features of each data set about the same norm, on which the kernel distance depends.
    """

    classes: tuple[int, ...]
    scales: tuple[float, float]

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the features of uint8 images [B, H, W, 3], and the concatenated logits of all labels.

        The features are float32 [B, 64].
        """
        conv = partial(nn.Conv, precision="highest")  # the same features on every device
        dense = partial(nn.Dense, precision="highest")
        edges = conv(24, (5, 5), 2)(images.astype(jnp.float32) / 127.5 - 1)
        x = nn.silu(edges)
        for width in (48, 96):
            x = nn.silu(conv(width, (3, 3), 2)(x))
            x = nn.silu(x + conv(width, (3, 3))(x))
        first, last = jnp.abs(edges).mean(axis=(1, 2)), dense(40)(x.mean(axis=(1, 2)))
        logits = dense(sum(self.classes))(jnp.concatenate([6 * first, last], axis=-1))
        features = jnp.concatenate([self.scales[0] * first, self.scales[1] * last], axis=-1)
        return features, logits


def network(name: str) -> Classifier:
    """Return the classifier for a data set of LABELS."""
    return Classifier(tuple(LABELS[name].values()), SCALES[name])


def features_and_logits(name: str) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return a function (parameters, images) -> (features, logits of the first label)."""
    first = next(iter(LABELS[name].values()))

    def apply(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features, logits = network(name).apply(params, images)
        return features, logits[:, :first]

    return apply


def save(params: Any, file: Path | str) -> None:
    """Write the parameters to a safetensors file, in half precision."""
    arrays = {name: np.asarray(a, np.float16) for name, a in flatten_dict(jax.device_get(params), sep="/").items()}
    write_whole(file, safetensors.numpy.save(arrays))


def load(name: str, file: Path | str = "") -> Any:
    """Return the parameters that `save` wrote to a file, by default to the file in the package.

    They are used as in `network(name).apply({"params": load(name)}, images)`.
    """
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(network(name).init, jax.random.key(0), images)["params"]
    wanted = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}
    return unflatten_dict(read_tensors(file or SHIPPED[name]).read(wanted), sep="/")
