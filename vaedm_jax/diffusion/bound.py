"""The bound on log p(x_0), term by term, of the three variants: in the u-chain they are one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.process import at, level_of, posterior_mean, q_sample
from vaedm_jax.diffusion.samplers import limit, noise_from_keys
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.target import Predict

HALF = 1 / 255  # half the width of one of 256 levels of a pixel in [-1, 1]


class Terms(NamedTuple):
    """Terms of -log p(x_0 | z) <= prior + sum over t of steps + decoder, in nats, summed over the pixels.

    Attributes:
      prior: [B], KL(q(u_T | x_0) || N(0, I)).
      steps: [T - 1, B], KL(q(u_{t-1} | u_t, x_0) || p(u_{t-1} | u_t)), with u_t drawn once; row i is t = i + 1.
      decoder: [B], -log p(x_0 | u_t) at t = 0, u_t drawn once.
    """

    prior: jax.Array
    steps: jax.Array
    decoder: jax.Array


def normal_kl(mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other: jax.Array) -> jax.Array:
    """KL(N(mean, exp log_variance) || N(other_mean, exp other)) of images, summed over the pixels: [B]."""
    ratio = jnp.exp(log_variance - other)
    kl = 0.5 * (other - log_variance + ratio - 1 + (mean - other_mean) ** 2 * jnp.exp(-other))
    return kl.sum(axis=(1, 2, 3))


def level_log_likelihood(x_0: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """log of the mass that N(mean, exp log_variance) has on the level of each pixel, summed: [B] (DDPM, eq. 13).

    The outermost levels reach to infinity.
    """
    scale = jnp.exp(-0.5 * log_variance)
    above, below = (x_0 - mean + HALF) * scale, (x_0 - mean - HALF) * scale
    upper = jnp.where(x_0 > 1 - HALF, jnp.inf, above)
    lower = jnp.where(x_0 < HALF - 1, -jnp.inf, below)
    # In the tails a difference of two values near to 1 would be lost: there both are mirrored.
    flip = lower > 0
    a, b = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_a, log_b = jax.scipy.stats.norm.logcdf(a), jax.scipy.stats.norm.logcdf(b)
    return (log_b + jnp.log1p(-jnp.exp(jnp.minimum(log_a - log_b, -1e-7)))).sum(axis=(1, 2, 3))


def chain_terms(
    schedule: Schedule,
    predict: Predict,
    x_0: jax.Array,
    keys: jax.Array,
    variance: str = "fixedsmall",
    clip: bool = True,
) -> Terms:
    """The terms of images x_0 [B, H, W, C] in [-1, 1], by one evaluation of the network at each of the T steps.

    Memory does not grow with T.

    Args:
      keys: [B], of the noise of each image.
      variance: one of VARIANCES, of the reverse steps.
      clip: of the estimates of x_0 to [-1, 1], as in sampling.
    """
    T, noise = len(schedule.t), noise_from_keys(keys, x_0.shape[1:])
    true, model = schedule.log_variance("fixedsmall"), schedule.log_variance(variance)

    def step(_: None, index: jax.Array) -> tuple[None, jax.Array]:
        u_t = q_sample(schedule, x_0, index, noise(index))
        estimate = predict(u_t, level_of(schedule, index, len(x_0)))
        mean = posterior_mean(schedule, limit(estimate.x_0, clip), u_t, index)
        kl = normal_kl(posterior_mean(schedule, x_0, u_t, index), at(true, index), mean, at(model, index))
        decoder = -level_log_likelihood(x_0, mean, at(model, index))
        return None, jnp.where(index == 0, decoder, kl)

    _, steps = jax.lax.scan(step, None, jnp.arange(T))
    root, rest = np.sqrt(schedule.alpha_bar[-1]), np.log1p(-schedule.alpha_bar[-1])
    prior = normal_kl(root * x_0, jnp.full_like(x_0, rest), jnp.zeros_like(x_0), jnp.zeros_like(x_0))
    return Terms(prior, steps[1:], steps[0])
