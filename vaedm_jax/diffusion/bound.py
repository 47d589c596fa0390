"""The bound on log p(x_0), term by term (eq. 12). On the chain of u it is the same for the three variants."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.prediction import Predict
from vaedm_jax.diffusion.process import at, noise_level, posterior_mean, q_sample
from vaedm_jax.diffusion.reverse import limit, noise_from_keys
from vaedm_jax.diffusion.schedule import Schedule

HALF = 1 / 255  # half the width of one of 256 levels of a pixel in [-1, 1]


class Terms(NamedTuple):
    """Terms of -log p(x_0 | z) <= prior + sum over t of steps + decoder, in nats, summed over the pixels.

    Attributes:
      prior: [B], KL(q(u_T | x_0) || N(0, I)).
      steps: [T - 1, B], KL(q(u_{t-1} | u_t, x_0) || p(u_{t-1} | u_t)), with u_t drawn once; row i is t = i + 1.
      decoder: [B], -log p(x_0 | u_t) at t = 0, with u_t drawn once.
    """

    prior: jax.Array
    steps: jax.Array
    decoder: jax.Array


def normal_kl(mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other: jax.Array) -> jax.Array:
    """Return KL(N(mean, exp log_variance) || N(other_mean, exp other)) of images, summed over the pixels: [B]."""
    ratio = jnp.exp(log_variance - other)
    kl = 0.5 * (other - log_variance + ratio - 1 + (mean - other_mean) ** 2 * jnp.exp(-other))
    return kl.sum(axis=(1, 2, 3))


def level_log_likelihood(x_0: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Return the log probability of the levels of the pixels under N(mean, exp log_variance), summed: [B].

    This is eq. 13 of the DDPM paper (arXiv 2006.11239). The outermost levels reach to infinity.
    """
    scale = jnp.exp(-0.5 * log_variance)
    above, below = (x_0 - mean + HALF) * scale, (x_0 - mean - HALF) * scale
    upper = jnp.where(x_0 > 1 - HALF, jnp.inf, above)
    lower = jnp.where(x_0 < HALF - 1, -jnp.inf, below)
    # Above the mean both values would be near 1, and their difference lost: there the distribution is mirrored.
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
    """Return the terms of images x_0 [B, H, W, C] in [-1, 1], by one evaluation of the network at each of the T steps.

    Memory does not grow with T.

    Args:
      keys: [B], the keys of the noise.
      variance: one of VARIANCES, of the reverse steps.
      clip: clip the estimates of x_0 to [-1, 1], as in sampling.
    """
    T, noise = len(schedule.t), noise_from_keys(keys, x_0.shape[1:])
    true, model = schedule.log_variance("fixedsmall"), schedule.log_variance(variance)

    def step(_: None, index: jax.Array) -> tuple[None, jax.Array]:
        u_t = q_sample(schedule, x_0, index, noise(index))
        estimate = predict(u_t, noise_level(schedule, index, len(x_0)))
        mean = posterior_mean(schedule, limit(estimate.x_0, clip), u_t, index)
        kl = normal_kl(posterior_mean(schedule, x_0, u_t, index), at(true, index), mean, at(model, index))
        decoder = -level_log_likelihood(x_0, mean, at(model, index))
        return None, jnp.where(index == 0, decoder, kl)

    _, steps = jax.lax.scan(step, None, jnp.arange(T))
    mean, log_variance = np.sqrt(schedule.alpha_bar[-1]) * x_0, np.log1p(-schedule.alpha_bar[-1])
    prior = normal_kl(mean, jnp.full_like(x_0, log_variance), jnp.zeros_like(x_0), jnp.zeros_like(x_0))
    return Terms(prior, steps[1:], steps[0])
