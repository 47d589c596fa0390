"""What the network is asked for, and what follows from it: the clean image x_0 and its noise eps.

With a = root, s = rest and u = a x_0 + s eps, the network gives one of

    eps       eps                                                       (the paper, Algorithm 1)
    v         a eps - s x_0                                             (Salimans and Ho, arXiv 2202.00512)
    residual  (s (x_0 - x_hat) / sigma - a sigma eps) / r               (EDM, arXiv 2206.00364, table 1, about x_hat)

where sigma is the root mean square of x_0 - x_hat, and r**2 = s**2 + (a sigma)**2. EDM's coefficients are multiplied
out here, so that nothing is divided by a small number: c_in = a / r, c_out = s sigma / r, c_skip = (a sigma / r)**2.
At T the clean image that follows from `residual` is x_hat itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaedm_jax.diffusion.process import Formulation, Level, level_of, q_sample
from vaedm_jax.diffusion.schedule import Schedule


class Estimate(NamedTuple):
    """The clean image and its noise, [B, H, W, C] both, with u = root x_0 + rest eps."""

    x_0: jax.Array
    eps: jax.Array


Predict = Callable[[jax.Array, Level], Estimate]  # all that samplers and the bound know of a network


def from_eps(u: jax.Array, level: Level, eps: jax.Array) -> Estimate:
    """Return the noise of u, and the clean image that follows from it (eq. 18)."""
    return Estimate((u - level.rest * eps) / level.root, eps)


class About(NamedTuple):
    """What a target knows of the images beforehand.

    Attributes:
      centre: x_hat [B, H, W, C], or 0.
      sigma: the deviation from it, where the target asks for it: [B, 1, 1, 1] or a scalar.
    """

    centre: Any
    sigma: Any = 1.0


@dataclass(frozen=True)
class Eps:
    """The noise. An error of it is rest / root times as large in x_0, 157 times at T."""

    def about(self, form: Formulation, x_hat: jax.Array | None, blank: Any) -> About:
        """Return what is known of images whose x_hat is `x_hat`, or 0 where it is `blank` (a bool, or [B])."""
        return About(x_hat if form.shifted else 0.0)

    def lacks(self, form: Formulation) -> list[str]:
        """Return the settings that it needs, and that are not known: training measures them."""
        return []

    def shown(self, u: jax.Array, level: Level, about: About) -> jax.Array:
        """Return what the network is shown of u."""
        return u + about.centre

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        """Return what follows from what the network gives."""
        return from_eps(u, level, output)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        """Return what the network should give."""
        return eps

    def gain(self, level: Level, about: About) -> jax.Array:
        """Return how large an error of 1 is in x_0."""
        return level.rest / level.root


@dataclass(frozen=True)
class V(Eps):
    """The velocity, whose error is at most as large in x_0."""

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        _, a, s = level
        return Estimate(a * u - s * output, s * u + a * output)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        return level.root * eps - level.rest * x_0

    def gain(self, level: Level, about: About) -> jax.Array:
        return level.rest


@dataclass(frozen=True)
class Residual:
    """What x_hat lacks, or the whole image where there is no x_hat: mean 0 and variance 1 in and out.

    The shift of Formulation 2 would cancel. So it is one model with Formulation 1.

    Attributes:
      sigma_r: root mean square of x_0 - x_hat, images in [-1, 1]. sigma_data: that of x_0.
    """

    sigma_r: float
    sigma_data: float

    def about(self, form: Formulation, x_hat: jax.Array | None, blank: Any) -> About:
        if not form.shown:
            return About(0.0, self.sigma_data)
        # Where the image is blank, it is the data's own deviation about 0.
        return About(x_hat, jnp.where(jnp.reshape(blank, (-1, 1, 1, 1)), self.sigma_data, self.sigma_r))

    def lacks(self, form: Formulation) -> list[str]:
        return [name for name in (("sigma_r",) * form.shown + ("sigma_data",)) if not getattr(self, name)]

    def shown(self, u: jax.Array, level: Level, about: About) -> jax.Array:
        return (u - level.root * about.centre) / self.r(level, about)

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        (_, a, s), (centre, sigma), r = level, about, self.r(level, about)
        w = self.shown(u, level, about)
        return Estimate(centre + sigma * (a * sigma * w + s * output) / r, (s * w - a * sigma * output) / r)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        (_, a, s), (centre, sigma) = level, about
        return (s * (x_0 - centre) / sigma - a * sigma * eps) / self.r(level, about)

    def gain(self, level: Level, about: About) -> jax.Array:
        return level.rest * about.sigma / self.r(level, about)

    def r(self, level: Level, about: About) -> jax.Array:
        """Return the deviation of u - root x_hat."""
        return jnp.sqrt(level.rest**2 + (level.root * about.sigma) ** 2)


Target = Eps | V | Residual
# From a `ddpm` section of the configuration.
TARGETS: dict[str, Callable[[Any], Target]] = {
    "eps": lambda ddpm: Eps(),
    "v": lambda ddpm: V(),
    "residual": lambda ddpm: Residual(ddpm.sigma_r, ddpm.sigma_data),
}


class Predictor(NamedTuple):
    """A `Predict` of a network: `network(shown, t)`, and what its target knows of the images."""

    network: Callable[[jax.Array, jax.Array], jax.Array]
    target: Target
    about: About

    def output(self, u: jax.Array, level: Level) -> jax.Array:
        """Return what the network gives."""
        return self.network(self.target.shown(u, level, self.about), level.t)

    def __call__(self, u: jax.Array, level: Level) -> Estimate:
        return self.target.estimate(u, level, self.output(u, level), self.about)


def predictor(
    target: Target,
    form: Formulation,
    network: Callable,
    x_hat: jax.Array | None = None,
    shown: jax.Array | None = None,
    blank: Any = False,
    **conditions: Any,
) -> Predictor:
    """Return `network(x_t, t, x_hat, **conditions)` as a function of u [B, H, W, C] and its level.

    Args:
      x_hat: [B, H, W, C], which shifts the chain, or what the target is about; zeros where it is `blank`.
      shown: what the network is shown in place of x_hat, where it is another; see `process.augment`.
    """
    image = (x_hat if shown is None else shown) if form.shown else None
    return Predictor(lambda x_t, t: network(x_t, t, image, **conditions), target, target.about(form, x_hat, blank))


def noise_loss(schedule: Schedule, predict: Predict, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """Return the mean squared error of the noise of each image, [B]: a measure that all targets have in common."""
    estimate = predict(q_sample(schedule, x_0, t, eps), level_of(schedule, t, len(x_0)))
    return jnp.mean((estimate.eps - eps) ** 2, axis=(1, 2, 3))


def training_loss(
    schedule: Schedule, predict: Predictor, x_0: jax.Array, t: jax.Array, eps: jax.Array, min_snr: float = 0.0
) -> jax.Array:
    """Return the mean squared error of what the network gives for each image, [B]; of `eps`, Algorithm 1, line 6.

    Args:
      min_snr: where not 0, gamma of min-SNR-gamma (arXiv 2303.09556): the squared error of x_0 has the weight
        min(snr, gamma), with snr = (root / rest)**2. For `eps` it is min(snr, gamma) / snr, and / (snr + 1) for `v`.
    """
    level, about = level_of(schedule, t, len(x_0)), predict.about
    error = predict.output(q_sample(schedule, x_0, t, eps), level) - predict.target.wanted(x_0, eps, level, about)
    error = error**2
    if min_snr:
        error *= jnp.minimum((level.root / level.rest) ** 2, min_snr) * predict.target.gain(level, about) ** 2
    return jnp.mean(error, axis=(1, 2, 3))
