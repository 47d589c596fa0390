"""Reverse chains: a sampler is a table of coefficients, and one `lax.scan` runs any of them.

Every step is u <- a u + b x_0 + c eps + sigma noise, where eps is what the network predicts and x_0 the clean image
that follows from it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.process import PredictNoise
from vaedm_jax.diffusion.schedule import Schedule


class Table(NamedTuple):
    """One row for each step in the order of execution, all [N]."""

    t: np.ndarray
    sqrt_alpha_bar: np.ndarray
    sqrt_one_minus_alpha_bar: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    sigma: np.ndarray


def _table(schedule: Schedule, a: np.ndarray, b: np.ndarray, c: np.ndarray, sigma: np.ndarray) -> Table:
    sigma = np.append(0.0, sigma[1:])  # the last step that is executed adds no noise
    root, rest = np.sqrt(schedule.alpha_bar), np.sqrt(1 - schedule.alpha_bar)
    return Table(*(column[::-1].astype(np.float32) for column in (schedule.t, root, rest, a, b, c, sigma)))


def ddpm(schedule: Schedule, variance: str = "fixedsmall") -> Table:
    """Ancestral sampling, Algorithm 2: the posterior's mean at the predicted x_0, with one of VARIANCES."""
    of_x_0, of_u_t = schedule.posterior_mean()
    sigma = np.exp(0.5 * schedule.log_variance(variance))
    return _table(schedule, a=of_u_t, b=of_x_0, c=np.zeros_like(sigma), sigma=sigma)


def ddim(schedule: Schedule, eta: float = 0.0) -> Table:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): deterministic for eta = 0; eta = 1 has the posterior's variance."""
    sigma = eta * np.sqrt(schedule.posterior_variance)
    c = np.sqrt(1 - schedule.alpha_bar_prev - sigma**2)
    return _table(schedule, a=np.zeros_like(c), b=np.sqrt(schedule.alpha_bar_prev), c=c, sigma=sigma)


SAMPLERS = ("ddpm", "ddim")


def noise_from_keys(keys: jax.Array, shape: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """Noise [B, *shape] of the j-th step, where image i's depends on keys[i] and j alone."""
    return lambda j: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, j), shape))(keys)


def reverse(
    predict_noise: PredictNoise,
    table: Table,
    u: jax.Array,
    noise: Callable[[jax.Array], jax.Array],
    clip: bool = True,
) -> jax.Array:
    """Run the chain from u [B, H, W, C] at the table's first step down to u_0, which is the image.

    Args:
      noise: the noise of the j-th step that is executed, broadcast against u. A table without sigma never asks for it.
      clip: clip the estimates of x_0 to [-1, 1] before they are used; eps is used as it was predicted.
    """
    stochastic = bool(np.any(table.sigma))

    def step(u: jax.Array, row: tuple[Table, jax.Array]) -> tuple[jax.Array, None]:
        r, j = row
        eps = predict_noise(u, jnp.full(u.shape[:1], r.t))
        x_0 = (u - r.sqrt_one_minus_alpha_bar * eps) / r.sqrt_alpha_bar
        x_0 = jnp.clip(x_0, -1, 1) if clip else x_0
        u = r.a * u + r.b * x_0 + r.c * eps
        return (u + r.sigma * noise(j) if stochastic else u), None

    return jax.lax.scan(step, u, (table, jnp.arange(len(table.t))))[0]
