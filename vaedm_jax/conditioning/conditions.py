"""Conditions: what the refiner is shown of an image in place of the VAE's image (appendix D of the paper).

A condition has a name, such as `downsample4`. It removes something from images [B, H, W, C] in [0, 1]:

- `corrupt` returns the corrupted images.
- `lift` brings them back to the size of the images.
- `make_consistent` puts what is known of an image into a generated image.
- `shown` returns what the refiner sees in place of x_hat: corrupted images, rounded to 8 bits as in a file and lifted.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.errors import UserError, brief, check_range, prefix_errors

GREY = 0.5  # the value of a hole: 0 in [-1, 1], as the network sees it, and 128 in a file


@dataclass(frozen=True)
class Condition:
    """A condition that removes nothing. The other conditions override its methods."""

    factor = 1  # by which the sides of corrupted images are smaller

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Corrupt images [B, H, W, C] in [0, 1].

        Args:
          keys: [B]. If the condition is random, the corruption of image i depends on keys[i] only.
        """
        return x

    def lift(self, damaged: jax.Array) -> jax.Array:
        """Bring corrupted images to the size of the images: [B, H, W, C]."""
        return damaged

    def make_consistent(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        """Return the images nearest to x [B, H, W, C] that `corrupt` would turn into `damaged`, as far as possible."""
        return x

    def corrupt_8bit(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """Corrupt images and round them to the 256 levels of 8 bits, in [0, 1]."""
        return jnp.round(255 * self.corrupt(x, keys)) / 255

    def shown(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """Return what the refiner sees of images in place of x_hat: [B, H, W, C] in [0, 1]."""
        return self.lift(self.corrupt_8bit(x, keys))


@dataclass(frozen=True)
class Downsample(Condition):
    """Reduced images: each pixel is the mean of factor x factor pixels. They are lifted by bicubic interpolation."""

    factor: int = 4

    def __post_init__(self):
        check_range("factor", self.factor, 2, 8192, "no image has more pixels per side")

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        (B, H, W, C), f = x.shape, self.factor
        if H % f or W % f:
            raise UserError(f"factor = {f}: it must divide both sides of the images, {H} x {W} pixels")
        return x.reshape(B, H // f, f, W // f, f, C).mean(axis=(2, 4))

    def lift(self, damaged: jax.Array) -> jax.Array:
        B, H, W, C = damaged.shape
        return jnp.clip(jax.image.resize(damaged, (B, H * self.factor, W * self.factor, C), "bicubic"), 0, 1)

    def make_consistent(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        missing = damaged - self.corrupt(x)
        return jnp.clip(x + missing.repeat(self.factor, axis=1).repeat(self.factor, axis=2), 0, 1)


@dataclass(frozen=True)
class Grayscale(Condition):
    """Grey images: the luma of Rec. 601 in all channels."""

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        weights = jnp.asarray([0.299, 0.587, 0.114], x.dtype)
        return jnp.einsum("bhwc,c->bhw", x, weights, precision="highest")[..., None].repeat(3, axis=-1)

    def lift(self, damaged: jax.Array) -> jax.Array:
        """Return the images in grey, since a grey photograph from a file may have a tint."""
        return self.corrupt(damaged)

    def make_consistent(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        return jnp.clip(x + self.corrupt(damaged - x), 0, 1)


@dataclass(frozen=True)
class Mask(Condition):
    """Images with a grey hole at a random place.

    Attributes:
      side: the height and width of the hole, as a share of those of the image.
    """

    side: float = 0.5

    def __post_init__(self):
        check_range("side of the mask", self.side, 0.05, 0.95)

    def corrupt(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        sizes = x.shape[1:3]
        holes = [max(1, round(self.side * size)) for size in sizes]

        def within(key: jax.Array) -> jax.Array:
            """Return which pixels are in the hole of an image, [H, W]."""
            ends = jnp.array([size - hole + 1 for size, hole in zip(sizes, holes, strict=True)])
            first = jax.random.randint(key, (2,), 0, ends)
            row, column = (
                (jnp.arange(size) >= start) & (jnp.arange(size) < start + hole)
                for size, start, hole in zip(sizes, first, holes, strict=True)
            )
            return row[:, None] & column[None]

        return jnp.where(jax.vmap(within)(keys)[..., None], GREY, x)

    def make_consistent(self, x: jax.Array, damaged: jax.Array) -> jax.Array:
        """Return x inside the hole and `damaged` elsewhere. The hole is where `damaged` is grey: (128, 128, 128)."""
        hole = jnp.all(jnp.abs(damaged - 128 / 255) < 0.6 / 255, axis=-1, keepdims=True)  # GREY too, before rounding
        return jnp.where(hole, x, damaged)


@dataclass(frozen=True)
class Blur(Condition):
    """Images that are blurred by a Gaussian. Beyond the image its edge pixels are repeated.

    Attributes:
      sigma: the standard deviation of the Gaussian, in pixels.
    """

    sigma: float = 2.0

    def __post_init__(self):
        check_range("sigma of the blur", self.sigma, 0.1, 100.0)

    def corrupt(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        down, along = (jnp.asarray(self.matrix(size), x.dtype) for size in x.shape[1:3])
        return jnp.einsum("ih,jw,bhwc->bijc", down, along, x, precision="highest")

    def matrix(self, size: int) -> np.ndarray:
        """Return the matrix [size, size] that blurs a line of pixels."""
        radius, lines, matrix = math.ceil(3 * self.sigma), np.arange(size), np.zeros((size, size))
        for offset in range(-radius, radius + 1):
            matrix[lines, np.clip(lines + offset, 0, size - 1)] += np.exp(-0.5 * (offset / self.sigma) ** 2)
        return matrix / matrix.sum(axis=1, keepdims=True)


EXAMPLES = "vae, downsample4, grayscale, mask0.5, blur2"
KINDS = {"downsample": Downsample, "grayscale": Grayscale, "mask": Mask, "blur": Blur}


def parse_condition(name: str) -> Condition | None:
    """Return the condition with a name: a kind and its number, such as `downsample4`. `vae` gives None.

    Raises:
      UserError: the kind is unknown or takes no number, or the number cannot be read or is out of its range.
    """
    kind, number = re.fullmatch(r"([a-z]*)(.*)", name, re.DOTALL).groups()
    setting = f"ddpm.condition = {brief(repr(name))}"
    if kind not in ("vae", *KINDS):
        raise UserError(f"{setting}: it must be one of {EXAMPLES}; the numbers may differ")
    takes = fields(KINDS[kind]) if kind in KINDS else ()
    if number and not takes:
        raise UserError(f"{setting}: {kind} takes no number")
    try:
        numbers = [field.type(number) for field in takes if number]
    except ValueError as error:
        what = "a whole number" if takes[0].type is int else "a number"
        raise UserError(f"{setting}: {kind} takes {what}, as in {kind}{takes[0].default:g}") from error
    with prefix_errors(f"{setting}: "):
        return KINDS[kind](*numbers) if kind in KINDS else None


def has_vae(ddpm: Any) -> bool:
    """Return whether the refiner of a `ddpm` section needs a VAE: it is shown the image of a VAE, or takes its z."""
    return ddpm.z_conditioning or (ddpm.variant != "uncond" and parse_condition(ddpm.condition) is None)
