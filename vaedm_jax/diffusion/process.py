"""The three variants, the forward process on u, and its posterior."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.schedule import Schedule


class Formulation(NamedTuple):
    """What distinguishes the variants: two booleans.

    Attributes:
      shown: whether the network is shown x_hat, concatenated to its input.
      shifted: whether the chain is shifted by x_hat.
    """

    shown: bool
    shifted: bool


FORMULATIONS = {
    "uncond": Formulation(shown=False, shifted=False),
    "form1": Formulation(shown=True, shifted=False),
    "form2": Formulation(shown=True, shifted=True),
}


def at(table: np.ndarray, index: jax.Array) -> jax.Array:
    """Return entries of a table [N] as float32 [B, 1, 1, 1], to multiply images with; index is [B] or a scalar."""
    return jnp.asarray(table, jnp.float32)[jnp.reshape(index, (-1, 1, 1, 1))]


class Level(NamedTuple):
    """The noise level of images: u = sqrt_alpha_bar x_0 + sqrt_one_minus_alpha_bar eps.

    Attributes:
      t: [B], the step that the network is told. The two factors broadcast against images [B, H, W, C].
    """

    t: jax.Array
    sqrt_alpha_bar: jax.Array
    sqrt_one_minus_alpha_bar: jax.Array


def noise_level(schedule: Schedule, index: jax.Array, B: int) -> Level:
    """Return the noise level of B images at one step of the schedule, or at one for each: index is a scalar or [B]."""
    t = jnp.broadcast_to(jnp.asarray(schedule.t)[index], (B,))
    return Level(t, at(np.sqrt(schedule.alpha_bar), index), at(np.sqrt(1 - schedule.alpha_bar), index))


def q_sample(schedule: Schedule, x_0: jax.Array, index: jax.Array, eps: jax.Array) -> jax.Array:
    """Return u_t ~ q(u_t | x_0) = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps: eq. 15 without x_hat."""
    return at(np.sqrt(schedule.alpha_bar), index) * x_0 + at(np.sqrt(1 - schedule.alpha_bar), index) * eps


def augment(schedule: Schedule, x_hat: jax.Array, k: jax.Array, noise: jax.Array) -> jax.Array:
    """Add the noise of the first k [B] steps of the chain to x_hat [B, H, W, C]; k = 0 leaves it unchanged.

    This is the conditioning augmentation of cascaded diffusion (arXiv 2106.15282).
    """
    alpha_bar = np.append(1.0, schedule.alpha_bar)
    return at(np.sqrt(alpha_bar), k) * x_hat + at(np.sqrt(1 - alpha_bar), k) * noise


def nearest_step(schedule: Schedule, log_sigma: jax.Array) -> jax.Array:
    """Return the steps [B] whose log sigma is nearest to `log_sigma` [B]; sigma = sqrt((1 - alpha_bar) / alpha_bar)."""
    table = -schedule.log_snr
    return jnp.searchsorted(jnp.asarray((table[1:] + table[:-1]) / 2, log_sigma.dtype), log_sigma)


def level_of_sigma(schedule: Schedule, sigma: jax.Array) -> Level:
    """Return the noise level at which sqrt((1 - alpha_bar) / alpha_bar) is sigma [B]; t lies between two steps."""
    table = jnp.asarray(-schedule.log_snr, sigma.dtype)
    t = jnp.interp(jnp.log(sigma), table, jnp.asarray(schedule.t, sigma.dtype))
    a = jax.lax.rsqrt(1 + sigma**2).reshape(-1, 1, 1, 1)
    return Level(t, a, sigma.reshape(-1, 1, 1, 1) * a)


def posterior_mean(schedule: Schedule, x_0: jax.Array, u_t: jax.Array, index: jax.Array) -> jax.Array:
    """Return the mean of q(u_{t-1} | u_t, x_0): eq. 17 without kappa x_hat."""
    of_x_0, of_u_t = schedule.posterior_coefficients()
    return at(of_x_0, index) * x_0 + at(of_u_t, index) * u_t
