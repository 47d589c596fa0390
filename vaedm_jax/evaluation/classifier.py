"""Small classifiers of the images that come with the package, whose features the samples are compared by."""

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

# What is told from the images, by data set, and how many classes of it there are. The first names the Inception Score's
# classes: a hair names the style too.
LABELS = {
    "emoji": {"category": 10},
    "avatars": {"hair": 87, "skin": 23, "mouth": 49, "glasses": 2},
}
SCALES = {"emoji": (6.0, 1.0), "avatars": (8.0, 1 / 3)}
SHIPPED = {name: Path(__file__).with_name(f"{name}_classifier.safetensors") for name in LABELS}


class Classifier(nn.Module):
    """Convolutions of three resolutions, for images of any size. Nothing is normalised, so that contrast counts.

    A classifier learns to see through blur and noise: its last layer shows what is where, and little of them. Its first
    layer shows them well. So the features are global means of both.

    Attributes:
      classes: the number of them, for each of the labels.
      scales: of the features of the first and of the last layer. Their ratio is such that slight blur or noise and a
        few misplaced parts count for about as much in a distance (docs/features.md); their size gives the features of
        each data set about the same norm, which the kernel distance depends on.
    """

    classes: tuple[int, ...]
    scales: tuple[float, float]

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """uint8 [B, H, W, 3] to features float32 [B, 64], and the logits of all labels, one after the other."""
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


def scored(name: str) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return a function of parameters and images: the features, and the logits of the first label."""
    first = next(iter(LABELS[name].values()))

    def apply(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features, logits = network(name).apply(params, images)
        return features, logits[:, :first]

    return apply


def save(params: Any, file: Path | str) -> None:
    """Write the parameters in half precision."""
    arrays = {name: np.asarray(a, np.float16) for name, a in flatten_dict(jax.device_get(params), sep="/").items()}
    write_whole(file, safetensors.numpy.save(arrays))


def load(name: str, file: Path | str = "") -> Any:
    """The parameters that `save` wrote, those in the package by default: for `network(name).apply({"params": ...})`."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(network(name).init, jax.random.key(0), images)["params"]
    wanted = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}
    return unflatten_dict(read_tensors(file or SHIPPED[name]).read(wanted), sep="/")
