"""What an image is known by: what the refiner is shown of it where no VAE is (appendix D), by name, as `downsample4`.

Each takes something from images [B, H, W, C] in [0, 1]: `corrupt` does, `lift` brings what is left to the size of the
image, and `agree` puts what is known into images that were made. `shown` is what the refiner sees in place of x_hat,
from 8 bits, as what lies in a file.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.errors import UserError, brief, in_range

GREY = 0.5  # of a hole, which is 0 for the network, and 128 in a file


@dataclass(frozen=True)
class Condition:
    """Nothing is lost; what is not said otherwise below."""

    factor = 1  # how much smaller what is left of an image is

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """What is left of images [B, H, W, C]; image i depends on keys[i] where chance has a part."""
        return x

    def lift(self, damaged: jax.Array) -> jax.Array:
        """What is left, at the size of the images."""
        return damaged

    def agree(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        """The images nearest to x of which `damaged` would be left, as far as that can be said."""
        return x

    def left(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """What is left of images, in 8 bits."""
        return jnp.round(255 * self.corrupt(x, keys)) / 255

    def shown(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """x_hat of images, [B, H, W, C] in [0, 1]."""
        return self.lift(self.left(x, keys))


@dataclass(frozen=True)
class Downsample(Condition):
    """Each pixel is the mean of factor x factor; bicubic when it is lifted."""

    factor: int = 4

    def __post_init__(self):
        in_range("factor", self.factor, 2, 8192, "images have no more pixels a side")

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        (B, H, W, C), f = x.shape, self.factor
        if H % f or W % f:
            raise UserError(f"factor = {f}: it must divide the images' {H} x {W} pixels")
        return x.reshape(B, H // f, f, W // f, f, C).mean(axis=(2, 4))

    def lift(self, damaged: jax.Array) -> jax.Array:
        B, H, W, C = damaged.shape
        return jnp.clip(jax.image.resize(damaged, (B, H * self.factor, W * self.factor, C), "bicubic"), 0, 1)

    def agree(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        missing = damaged - self.corrupt(x)
        return jnp.clip(x + missing.repeat(self.factor, axis=1).repeat(self.factor, axis=2), 0, 1)


@dataclass(frozen=True)
class Grayscale(Condition):
    """The luma of Rec. 601 in all channels."""

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        weights = jnp.asarray([0.299, 0.587, 0.114], x.dtype)
        return jnp.einsum("bhwc,c->bhw", x, weights, precision="highest")[..., None].repeat(3, axis=-1)

    def lift(self, damaged: jax.Array) -> jax.Array:
        """A photograph may have a tint."""
        return self.corrupt(damaged)

    def agree(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        return jnp.clip(x + self.corrupt(damaged - x), 0, 1)


@dataclass(frozen=True)
class Mask(Condition):
    """A grey hole somewhere in each image, `side` of it long and wide."""

    side: float = 0.5

    def __post_init__(self):
        in_range("side of the mask", self.side, 0.05, 0.95)

    def corrupt(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        sizes = x.shape[1:3]
        holes = [max(1, round(self.side * size)) for size in sizes]

        def within(key: jax.Array) -> jax.Array:
            ends = jnp.array([size - hole + 1 for size, hole in zip(sizes, holes, strict=True)])
            first = jax.random.randint(key, (2,), 0, ends)
            row, column = (
                (jnp.arange(size) >= start) & (jnp.arange(size) < start + hole)
                for size, start, hole in zip(sizes, first, holes, strict=True)
            )
            return row[:, None] & column[None]

        return jnp.where(jax.vmap(within)(keys)[..., None], GREY, x)

    def agree(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        """What is grey (128, 128, 128) was not known."""
        hole = jnp.all(jnp.abs(damaged - GREY) < 0.6 / 255, axis=-1, keepdims=True)
        return jnp.where(hole, x, damaged)


@dataclass(frozen=True)
class Blur(Condition):
    """By a Gaussian of so many pixels' deviation; the edge goes on beyond the image."""

    sigma: float = 2.0

    def __post_init__(self):
        in_range("sigma of the blur", self.sigma, 0.1, 100.0)

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        down, along = (jnp.asarray(self.matrix(size), x.dtype) for size in x.shape[1:3])
        return jnp.einsum("ih,jw,bhwc->bijc", down, along, x, precision="highest")

    def matrix(self, size: int) -> np.ndarray:
        """What blurs a line of pixels, [size, size]."""
        radius, lines, matrix = math.ceil(3 * self.sigma), np.arange(size), np.zeros((size, size))
        for offset in range(-radius, radius + 1):
            matrix[lines, np.clip(lines + offset, 0, size - 1)] += np.exp(-0.5 * (offset / self.sigma) ** 2)
        return matrix / matrix.sum(axis=1, keepdims=True)


EXAMPLES = "vae, downsample4, grayscale, mask0.5, blur2"
KINDS = {"downsample": Downsample, "grayscale": Grayscale, "mask": Mask, "blur": Blur}


def condition_of(name: str) -> Condition | None:
    """The condition of a name: `vae`, which is None, or a kind and its number, as `downsample4`, `mask0.5`, `blur2`.

    Raises: UserError for an unknown kind, and for a number that is none, out of its range or too much.
    """
    kind, number = re.fullmatch(r"([a-z]*)(.*)", name, re.DOTALL).groups()
    setting = f"ddpm.condition = {brief(repr(name))}"
    if kind not in ("vae", *KINDS):
        raise UserError(f"{setting}: it must be one of {EXAMPLES}, or one with another number")
    takes = fields(KINDS[kind]) if kind in KINDS else ()
    if number and not takes:
        raise UserError(f"{setting}: {kind} takes no number")
    try:
        return KINDS[kind](*(field.type(number) for field in takes if number)) if kind in KINDS else None
    except (UserError, ValueError) as error:
        raise UserError(f"{setting}: {brief(error)}") from error


def has_vae(ddpm: Any) -> bool:
    """Whether the refiner of a `ddpm` section is shown what a VAE decodes, or takes its z."""
    return ddpm.z_conditioning or (ddpm.variant != "uncond" and condition_of(ddpm.condition) is None)
