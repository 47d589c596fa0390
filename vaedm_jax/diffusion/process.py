"""The forward process on u, what the three variants show the network, and the training loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.schedule import Schedule

PredictNoise = Callable[[jax.Array, jax.Array], jax.Array]


class Formulation(NamedTuple):
    """The two bits that tell the variants apart."""

    shown: bool  # the network is shown x_hat, concatenated to its input
    shifted: bool  # the chain is shifted by x_hat

    def predict_noise(self, network: Callable, x_hat: jax.Array | None, **conditions: Any) -> PredictNoise:
        """`network(x_t, t, x_hat, **conditions)` as a function of u_t [B, H, W, C] and t [B]."""
        shift = x_hat if self.shifted else 0.0
        return lambda u_t, t: network(u_t + shift, t, x_hat if self.shown else None, **conditions)


FORMULATIONS = {
    "uncond": Formulation(shown=False, shifted=False),
    "form1": Formulation(shown=True, shifted=False),
    "form2": Formulation(shown=True, shifted=True),
}


def at(table: np.ndarray, index: jax.Array) -> jax.Array:
    """Entries of a host table [N] in float32, shaped [B, 1, 1, 1] to multiply images with; index is [B] or a scalar."""
    return jnp.asarray(table, jnp.float32)[jnp.reshape(index, (-1, 1, 1, 1))]


def q_sample(schedule: Schedule, x_0: jax.Array, index: jax.Array, eps: jax.Array) -> jax.Array:
    """u_t ~ q(u_t | x_0), eq. 15 less x_hat: sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps."""
    return at(np.sqrt(schedule.alpha_bar), index) * x_0 + at(np.sqrt(1 - schedule.alpha_bar), index) * eps


def predict_x_0(schedule: Schedule, u_t: jax.Array, index: jax.Array, eps: jax.Array) -> jax.Array:
    """The clean image that u_t and its noise imply (eq. 18)."""
    return (u_t - at(np.sqrt(1 - schedule.alpha_bar), index) * eps) / at(np.sqrt(schedule.alpha_bar), index)


def posterior_mean(schedule: Schedule, x_0: jax.Array, u_t: jax.Array, index: jax.Array) -> jax.Array:
    """The mean of q(u_{t-1} | u_t, x_0), eq. 17 without kappa x_hat."""
    of_x_0, of_u_t = schedule.posterior_mean()
    return at(of_x_0, index) * x_0 + at(of_u_t, index) * u_t


def noise_loss(
    schedule: Schedule, predict_noise: PredictNoise, x_0: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """Algorithm 1, line 6: the mean squared error of the predicted noise for each image, [B]."""
    u_t = q_sample(schedule, x_0, t, eps)
    return jnp.mean((predict_noise(u_t, t) - eps) ** 2, axis=(1, 2, 3))
