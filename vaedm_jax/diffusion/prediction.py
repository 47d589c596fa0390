"""What the network predicts, and the clean image x_0 and the noise eps that follow from it.

With a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar) and u = a x_0 + s eps, the network predicts one of

    eps       eps                                                       (the paper, Algorithm 1)
    v         a eps - s x_0                                             (Salimans and Ho, arXiv 2202.00512)
    residual  (s (x_0 - x_hat) / sigma - a sigma eps) / r               (EDM, arXiv 2206.00364, table 1, about x_hat)

where sigma is the root mean square of x_0 - x_hat, and r**2 = s**2 + (a sigma)**2. EDM's coefficients are multiplied
out, so that nothing is divided by a small number: c_in = a / r, c_out = s sigma / r, c_skip = (a sigma / r)**2.
At T, where a is nearly 0, the clean image of `residual` is x_hat + sigma times the output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaedm_jax.diffusion.process import Formulation, Level


class Estimate(NamedTuple):
    """Estimates of the clean image and of the noise in u, [B, H, W, C] both."""

    x_0: jax.Array
    eps: jax.Array


Predict = Callable[[jax.Array, Level], Estimate]  # (u, its noise level); samplers and the bound know no more


def from_eps(u: jax.Array, level: Level, eps: jax.Array) -> Estimate:
    """Return the estimate that follows from eps (eq. 18)."""
    return Estimate((u - level.sqrt_one_minus_alpha_bar * eps) / level.sqrt_alpha_bar, eps)


class About(NamedTuple):
    """What is known of images before they are refined.

    Attributes:
      centre: x_hat [B, H, W, C], or 0.
      sigma: the root mean square of x_0 - centre, [B, 1, 1, 1] or a scalar; only `residual` uses it.
    """

    centre: Any
    sigma: Any = 1.0


@dataclass(frozen=True)
class Eps:
    """The network predicts the noise. An error is s / a times as large in x_0: 157 times at T."""

    def about(self, form: Formulation, x_hat: jax.Array | None, blank: Any) -> About:
        """Return what is known of images with this x_hat; `blank` (a bool or [B]) marks those without."""
        return About(x_hat if form.shifted else 0.0)

    def lacks(self, form: Formulation) -> list[str]:
        """Return the names of the settings that are needed and missing; training measures them."""
        return []

    def shown(self, u: jax.Array, level: Level, about: About) -> jax.Array:
        """Return the input of the network, [B, H, W, C]: x_t = u + s, where s is the shift."""
        return u + about.centre

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        """Return the estimate that follows from the output of the network."""
        return from_eps(u, level, output)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        """Return the output that the network is trained to give."""
        return eps

    def gain(self, level: Level, about: About) -> jax.Array:
        """Return the error of x_0 that an error of 1 in the output causes."""
        return level.sqrt_one_minus_alpha_bar / level.sqrt_alpha_bar


@dataclass(frozen=True)
class V(Eps):
    """The network predicts the velocity. An error is at most as large in x_0."""

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        _, a, s = level
        return Estimate(a * u - s * output, s * u + a * output)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        return level.sqrt_alpha_bar * eps - level.sqrt_one_minus_alpha_bar * x_0

    def gain(self, level: Level, about: About) -> jax.Array:
        return level.sqrt_one_minus_alpha_bar


@dataclass(frozen=True)
class Residual:
    """The network predicts what x_hat lacks, or the image if there is no x_hat.

    Its input and its target have a mean square of about 1 at every noise level.

    The shift of Formulation 2 would cancel, so Formulations 1 and 2 are the same model.

    Attributes:
      sigma_r: root mean square of x_0 - x_hat, images in [-1, 1]; sigma_data: of x_0.
    """

    sigma_r: float
    sigma_data: float

    def about(self, form: Formulation, x_hat: jax.Array | None, blank: Any) -> About:
        if not form.shown:
            return About(0.0, self.sigma_data)
        # A blank image says nothing of x_0, which then varies about 0.
        return About(x_hat, jnp.where(jnp.reshape(blank, (-1, 1, 1, 1)), self.sigma_data, self.sigma_r))

    def lacks(self, form: Formulation) -> list[str]:
        needed = ("sigma_r", "sigma_data") if form.shown else ("sigma_data",)
        return [name for name in needed if not getattr(self, name)]

    def shown(self, u: jax.Array, level: Level, about: About) -> jax.Array:
        return (u - level.sqrt_alpha_bar * about.centre) / self.r(level, about)

    def estimate(self, u: jax.Array, level: Level, output: jax.Array, about: About) -> Estimate:
        (_, a, s), (centre, sigma), r = level, about, self.r(level, about)
        w = self.shown(u, level, about)
        return Estimate(centre + sigma * (a * sigma * w + s * output) / r, (s * w - a * sigma * output) / r)

    def wanted(self, x_0: jax.Array, eps: jax.Array, level: Level, about: About) -> jax.Array:
        (_, a, s), (centre, sigma) = level, about
        return (s * (x_0 - centre) / sigma - a * sigma * eps) / self.r(level, about)

    def gain(self, level: Level, about: About) -> jax.Array:
        return level.sqrt_one_minus_alpha_bar * about.sigma / self.r(level, about)

    def r(self, level: Level, about: About) -> jax.Array:
        """Return the root mean square of u - a x_hat."""
        return jnp.sqrt(level.sqrt_one_minus_alpha_bar**2 + (level.sqrt_alpha_bar * about.sigma) ** 2)


Target = Eps | V | Residual
# ddpm.prediction -> a function that makes the target of a `ddpm` section.
TARGETS: dict[str, Callable[[Any], Target]] = {
    "eps": lambda ddpm: Eps(),
    "v": lambda ddpm: V(),
    "residual": lambda ddpm: Residual(ddpm.sigma_r, ddpm.sigma_data),
}


class Predictor(NamedTuple):
    """A network with its target, which together are a `Predict`.

    Attributes:
      network: (input [B, H, W, C], t [B]) -> output [B, H, W, C].
      target: what the output stands for.
      about: what is known of the images.
      x_hat: [B, H, W, C]; None for a plain DDPM.
    """

    network: Callable[[jax.Array, jax.Array], jax.Array]
    target: Target
    about: About
    x_hat: jax.Array | None = None

    def output(self, u: jax.Array, level: Level) -> jax.Array:
        """Return the output of the network."""
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
    """Return `network(x_t, t, x_hat, **conditions)` as a function of u [B, H, W, C] and its noise level.

    Args:
      form: whether the network is shown x_hat, and whether the chain is shifted by it.
      x_hat: [B, H, W, C] in [-1, 1]; zeros for images that are `blank`.
      shown: shown to the network in place of x_hat; see `process.augment`.
      blank: marks images without x_hat, for guidance: a bool, or [B].
    """
    image = (x_hat if shown is None else shown) if form.shown else None
    about = target.about(form, x_hat, blank)
    return Predictor(lambda x_t, t: network(x_t, t, image, **conditions), target, about, x_hat)
