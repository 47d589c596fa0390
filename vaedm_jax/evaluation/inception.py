"""The Inception-v3 network for FID, KID and the Inception Score.

It is the network in TensorFlow's archive of 2015-12-05, and differs from the published Inception-v3 (arXiv 1512.00567).
It has 1008 classes, its average pooling leaves the padding out, and its last block has max pooling instead of average
pooling. The weights and the names of the layers are those of the PyTorch port
(https://github.com/mseitzer/pytorch-fid).
"""

import hashlib
import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.interop import torch_file
from vaedm_jax.storage.paths import opened, resolve_path

WHERE = "pt_inception-2015-12-05-6726825d.pth from https://github.com/mseitzer/pytorch-fid/releases"
# https://github.com/snap-research/discoscene/blob/main/models/inception_model.py has the same hash for this file.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = 299  # pixels a side of the images that the network sees
EPSILON = 1e-3  # of the batch normalisation

average = partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)
maximum = partial(nn.max_pool, window_shape=(3, 3), padding="SAME")
halve = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))

# The branches of a block by name. A branch is a chain of convolutions, each written as its number of features and its
# kernel, or two kernels that are applied side by side.
Block = dict[str, str]


def a(n: int) -> Block:
    """Return the block of the first resolution, with n features in the pooling branch."""
    return {"1x1": "64 1x1", "5x5": "48 1x1, 64 5x5", "3x3dbl": "64 1x1, 96 3x3, 96 3x3", "_pool": f"{n} 1x1"}


def c(n: int) -> Block:
    """Return the block of the second resolution, with n features inside its 7x7 branches."""
    return {
        "1x1": "192 1x1",
        "7x7": f"{n} 1x1, {n} 1x7, 192 7x1",
        "7x7dbl": f"{n} 1x1, {n} 7x1, {n} 1x7, {n} 7x1, 192 1x7",
        "_pool": "192 1x1",
    }


B = {"3x3": "384 3x3", "3x3dbl": "64 1x1, 96 3x3, 96 3x3", "_pool": ""}
D = {"3x3": "192 1x1, 320 3x3", "7x7x3": "192 1x1, 192 1x7, 192 7x1, 192 3x3", "_pool": ""}
E = {
    "1x1": "320 1x1",
    "3x3": "384 1x1, 384 1x3 3x1",
    "3x3dbl": "448 1x1, 384 3x3, 384 1x3 3x1",
    "_pool": "192 1x1",
}
BLOCKS = {
    "Mixed_5b": (a(32), average),
    "Mixed_5c": (a(64), average),
    "Mixed_5d": (a(64), average),
    "Mixed_6a": (B, halve),
    "Mixed_6b": (c(128), average),
    "Mixed_6c": (c(160), average),
    "Mixed_6d": (c(160), average),
    "Mixed_6e": (c(192), average),
    "Mixed_7a": (D, halve),
    "Mixed_7b": (E, average),
    "Mixed_7c": (E, maximum),
}


def conv(x: jax.Array, name: str, features: int, kernel: str, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """Apply a convolution and a ReLU. `from_state` folds the batch normalisation into the convolution."""
    window = tuple(map(int, kernel.split("x")))
    return nn.relu(nn.Conv(features, window, stride, padding, precision=jax.lax.Precision.HIGHEST, name=name)(x))


def mixed(x: jax.Array, name: str, block: Block, pool: partial) -> jax.Array:
    """Apply the branches of a block, and concatenate their outputs.

    The branch `_pool` begins with `pool`. If `pool` halves the resolution, the other branches end with a stride of 2.
    """
    outputs = []
    for branch, chain in block.items():
        h = pool(x) if branch == "_pool" else x
        layers = chain.split(", ") if chain else []
        for i, layer in enumerate(layers, 1):
            features, *kernels = layer.split()
            path = f"{name}.branch{branch}" + (f"_{i}" if len(layers) > 1 else "")
            paths = [path] if len(kernels) == 1 else [path + "a", path + "b"]
            how = (2, "VALID") if pool is halve and i == len(layers) else (1, "SAME")
            parts = [conv(h, p, int(features), kernel, *how) for p, kernel in zip(paths, kernels, strict=True)]
            h = jnp.concatenate(parts, axis=-1)
        outputs.append(h)
    return jnp.concatenate(outputs, axis=-1)


def resize(x: jax.Array, size: int, axis: int) -> jax.Array:
    """Interpolate linearly along an axis as TensorFlow 1 does, which takes pixel i from i * (old size / new size)."""
    n = x.shape[axis]
    place = np.arange(size, dtype=np.float32) * np.float32(n / size)
    low = place.astype(np.int32)
    begin, end = (jnp.take(x, i, axis) for i in (low, np.minimum(low + 1, n - 1)))
    return begin + (end - begin) * np.expand_dims(place - low, [i for i in range(x.ndim) if i != axis])


def preprocess(images: jax.Array) -> jax.Array:
    """Convert uint8 images [B, H, W, 3] to the input of the network, [B, 299, 299, 3] in [-1, 1)."""
    if images.dtype != jnp.uint8:
        raise UserError(f"images of type {images.dtype}: Inception needs uint8")
    return (resize(resize(images.astype(jnp.float32), SIZE, axis=2), SIZE, axis=1) - 128) / 128


class InceptionV3(nn.Module):
    """A network with features for FID, KID, precision and recall, and with logits for the Inception Score."""

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return features [B, 2048] (pool3) and logits [B, 1008] without bias, of uint8 images [B, H, W, 3]."""
        x = conv(preprocess(images), "Conv2d_1a_3x3", 32, "3x3", 2, "VALID")
        x = conv(x, "Conv2d_2a_3x3", 32, "3x3", padding="VALID")
        x = halve(conv(x, "Conv2d_2b_3x3", 64, "3x3"))
        x = conv(x, "Conv2d_3b_1x1", 80, "1x1")
        x = halve(conv(x, "Conv2d_4a_3x3", 192, "3x3", padding="VALID"))
        for name, (block, pool) in BLOCKS.items():
            x = mixed(x, name, block, pool)
        features = x.mean(axis=(1, 2))
        return features, nn.Dense(1008, use_bias=False, precision=jax.lax.Precision.HIGHEST, name="fc")(features)


def load(path: str | os.PathLike) -> dict:
    """Return the variables of InceptionV3 from the published file.

    Raises:
      UserError: the file does not exist, or has another hash.
    """
    with opened(path, "eval.inception", f"is not there; it should be {WHERE}") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise UserError(f"{path}: its SHA-256 is {found}, not {SHA256}; it should be {WHERE}")
    return from_state(torch_file.read(resolve_path(path, "eval.inception")))


def from_state(state: dict[str, np.ndarray]) -> dict:
    """Return the variables of InceptionV3 from its state dict in PyTorch.

    Raises:
      UserError: the state dict is that of another network.
    """
    layers = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8))["params"]
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    norm = ["weight", "bias", "running_mean", "running_var"]
    convs = sorted(layers.keys() - {"fc"})
    for layer in convs:
        h, w, i, o = layers[layer]["kernel"].shape
        shapes |= {f"{layer}.conv.weight": (o, i, h, w)} | {f"{layer}.bn.{part}": (o,) for part in norm}
    found = {name: np.shape(array) for name, array in state.items() if not name.endswith("num_batches_tracked")}
    for name in sorted(shapes | found):
        if shapes.get(name) != found.get(name):
            has, wanted = (of.get(name, "absent") for of in (found, shapes))
            raise UserError(f"weights of another network: {name} is {has}, in Inception it is {wanted}")

    params = {"fc": {"kernel": state["fc.weight"].T}}
    for layer in convs:
        scale, bias, mean, variance = (np.asarray(state[f"{layer}.bn.{part}"], np.float64) for part in norm)
        scale /= np.sqrt(variance + EPSILON)
        kernel = state[f"{layer}.conv.weight"].transpose(2, 3, 1, 0) * scale
        params[layer] = {"kernel": kernel.astype(np.float32), "bias": (bias - mean * scale).astype(np.float32)}
    return {"params": params}
