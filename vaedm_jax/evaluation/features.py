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
from vaedm_jax.runtime.mesh import replicated, split_batch, whole_batch

Apply = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array | None]]


class Space(NamedTuple):
    """A feature space.

    Attributes:
      name: fit for a file. title: what the Frechet distance is called in it; FID is that of Inception only.
      apply: (params, images uint8 [B, H, W, C]) -> features [B, D], and logits [B, classes] or None.
      params: the network's, or {}.
      code: the text of the module that a user's function is in.
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
    """The space of a name: `emoji`, `avatars`, `random`, `inception`, or `module:function` of the user's.

    A function takes images, uint8 [B, H, W, C], as a traced array, and returns features [B, D].
    """
    if name in classifier.LABELS:
        return Space(name, f"FD-{name}", classifier.scored(name), {"params": classifier.load(name)})
    if name == "random":
        return Space(name, "FD-random", lambda _, images: random_features(images), {})
    if name == "inception":
        if not inception_file:
            raise UserError(f"eval.inception is empty; it should be the file {inception.WHERE}")
        return Space(name, "FID", inception.InceptionV3().apply, inception.load(inception_file))
    function = named(name)
    try:
        code = inspect.getsource(inspect.getmodule(function))
    except (OSError, TypeError):  # none is at hand, as for what was compiled
        code = ""
    return Space(name.replace(":", "."), f"FD-{name}", lambda _, images: (function(images), None), {}, code)


def named(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function `module:function`; UserError where there is none."""
    module, _, function = name.partition(":")
    advice = "it must be emoji, avatars, random, inception, or MODULE:FUNCTION, which can be imported from here"
    if not function:
        raise UserError(f"eval.features = {name!r}: {advice}")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(f"eval.features = {name!r}: {type(error).__name__}: {error}; {advice}") from error
    if not callable(found):
        raise UserError(f"eval.features = {name!r}: it is no function; {advice}")
    return found


class Extractor:
    """Features of images in one space, by a jitted forward pass, the batch split over the mesh."""

    def __init__(self, space: Space, mesh: Mesh, batch_size: int):
        self.space, self.size = space, whole_batch(mesh, batch_size)
        self.params, self.split = jax.device_put(space.params, replicated(mesh)), split_batch(mesh)
        self.forward = jax.jit(space.apply)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [N, D] and logits [N, classes] or None, of images uint8 [N, H, W, C].

        UserError where the space's function does not give [N, D], or one that is not finite.
        """
        parts = []
        for begin in range(0, len(images), self.size):
            batch = images[begin : begin + self.size]
            full = np.resize(batch, (self.size, *images.shape[1:]))  # repeated: one shape, one compilation
            parts.append([a if a is None else a[: len(batch)] for a in hosts.fetch(self.run(full))])
        features, logits = (None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True))
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(
                f"features '{self.space.name}': {bad.sum()} of {len(bad)} images have one that is not finite; all must "
                "be"
            )
        return features, logits

    def run(self, images: np.ndarray) -> tuple[jax.Array, jax.Array | None]:
        with told(self.space):
            features, logits = self.forward(self.params, jax.device_put(images, self.split))
        check_shape(self.space, features, self.size)
        return features, logits


def width(space: Space, side: int) -> int:
    """Return D of the features [B, D] of images of so many pixels a side, without computing any.

    Raises: UserError where the space's function fails, or gives something else.
    """
    with told(space):
        images = jax.ShapeDtypeStruct((2, side, side, 3), np.uint8)
        features, _ = jax.eval_shape(space.apply, space.params, images)
    check_shape(space, features, 2)
    return features.shape[1]


@contextmanager
def told(space: Space) -> Iterator[None]:
    """What a user's function raises is a UserError."""
    try:
        yield
    except Exception as error:
        if space.params:
            raise
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"features '{space.name}': the function fails ({what})") from error


def check_shape(space: Space, features: Any, n: int) -> None:
    """UserError where the features of n images are not [n, D]."""
    shape = list(np.shape(features))
    if len(shape) != 2 or shape[0] != n:
        raise UserError(f"features '{space.name}': {n} images give an array of {shape}; it should be [{n}, D]")
