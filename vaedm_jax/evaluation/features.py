"""Feature spaces by name, and the features of any number of images in them."""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vaedm_jax.errors import UserError
from vaedm_jax.evaluation import classifier, inception
from vaedm_jax.evaluation.random_features import random_features
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import batch_sharding, replicated, whole_batch

Apply = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array | None]]


class Space(NamedTuple):
    """A feature space.

    Attributes:
      name: the name, which is also used in the names of files.
      title: the name of the Frechet distance in this space; it is FID for Inception only.
      apply: (params, images uint8 [B, H, W, C]) -> features [B, D], and logits [B, classes] or None.
      params: the parameters of the network, or {}.
      code: the source of the module with the user's function; "" for the other spaces.
    """

    name: str
    title: str
    apply: Apply
    params: Any
    code: str = ""

    @property
    def identity(self) -> str:
        """A digest of the name, the parameters and the code."""
        digest = hashlib.sha256((self.name + self.code).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def space(name: str, inception_file: str = "") -> Space:
    """Return the feature space with a name.

    Args:
      name: `emoji`, `avatars`, `random`, `inception`, or `module:function` for a function of the user. The function
        takes uint8 images [B, H, W, C] as a traced array, and returns features [B, D].
      inception_file: the file with the weights of Inception, which only `inception` needs.

    Raises:
      UserError: there is no such space, or its file or function cannot be loaded.
    """
    if name in classifier.LABELS:
        return Space(name, f"FD-{name}", classifier.features_and_logits(name), {"params": classifier.load(name)})
    if name == "random":
        return Space(name, "FD-random", lambda _, images: random_features(images), {})
    if name == "inception":
        if not inception_file:
            raise UserError(f"eval.inception is empty; it should name the file {inception.WHERE}")
        return Space(name, "FID", inception.InceptionV3().apply, inception.load(inception_file))
    function = import_function(name)
    try:
        code = inspect.getsource(inspect.getmodule(function))
    except (OSError, TypeError):  # the source is not available, as for a compiled module
        code = ""
    return Space(name.replace(":", "."), f"FD-{name}", lambda _, images: (function(images), None), {}, code)


def import_function(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return the function `module:function`; raise UserError if it cannot be imported."""
    module, _, function = name.partition(":")
    advice = "it must be emoji, avatars, random, inception, or a MODULE:FUNCTION that can be imported here"
    if not function:
        raise UserError(f"eval.features = {name!r}: {advice}")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(f"eval.features = {name!r}: {type(error).__name__}: {error}; {advice}") from error
    if not callable(found):
        raise UserError(f"eval.features = {name!r}: it is not a function; {advice}")
    return found


class Extractor:
    """The jitted forward pass of one space, whose batches are split over the mesh."""

    def __init__(self, space: Space, mesh: Mesh, batch_size: int):
        self.space, self.size = space, whole_batch(mesh, batch_size)
        self.params, self.split = jax.device_put(space.params, replicated(mesh)), batch_sharding(mesh)
        self.forward = jax.jit(space.apply)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the features [N, D], and the logits [N, classes] or None, of uint8 images [N, H, W, C].

        Raises:
          UserError: the user's function fails or does not return [N, D], or a feature is not finite.
        """
        parts = []
        for begin in range(0, len(images), self.size):
            batch = images[begin : begin + self.size]
            # Images are repeated up to the full size, so that one shape is compiled.
            full = np.resize(batch, (self.size, *images.shape[1:]))
            parts.append([a if a is None else a[: len(batch)] for a in hosts.to_host(self.run(full))])
        features, logits = (None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True))
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(
                f"features '{self.space.name}': {bad.sum()} of {len(bad)} images have features that are not finite; "
                "all features must be finite"
            )
        return features, logits

    def run(self, images: np.ndarray) -> tuple[jax.Array, jax.Array | None]:
        """Return the features and the logits of one full batch, on the devices."""
        with function_errors(self.space):
            features, logits = self.forward(self.params, jax.device_put(images, self.split))
        check_shape(self.space, features, self.size)
        return features, logits


def width(space: Space, side: int) -> int:
    """Return D of the features [B, D] of images of `side` x `side` pixels, without computing them.

    Raises:
      UserError: the user's function fails, or does not return [B, D].
    """
    with function_errors(space):
        images = jax.ShapeDtypeStruct((2, side, side, 3), np.uint8)
        features, _ = jax.eval_shape(space.apply, space.params, images)
    check_shape(space, features, 2)
    return features.shape[1]


@contextmanager
def function_errors(space: Space) -> Iterator[None]:
    """Turn an exception of the user's function into a UserError."""
    try:
        yield
    except Exception as error:
        if space.params:
            raise
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"features '{space.name}': the function fails ({what})") from error


def check_shape(space: Space, features: Any, n: int) -> None:
    """Raise UserError unless the features of n images have the shape [n, D]."""
    shape = list(np.shape(features))
    if len(shape) != 2 or shape[0] != n:
        raise UserError(f"features '{space.name}': {n} images give an array of shape {shape}; it should be [{n}, D]")
