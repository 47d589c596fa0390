"""The losses of the diffusion model: in training, and of held-out images."""

import jax
import jax.numpy as jnp

from vaedm_jax.diffusion.prediction import Predict, Predictor
from vaedm_jax.diffusion.process import level_of_sigma, noise_level, q_sample
from vaedm_jax.diffusion.schedule import Schedule

MOST_DOUBLINGS = 12  # float32 does not resolve the difference between two clean images that are nearer


def noise_loss(schedule: Schedule, predict: Predict, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """Return the mean squared error of eps of each image, [B], which is comparable between targets.

    The arguments are those of `training_loss`.
    """
    estimate = predict(q_sample(schedule, x_0, t, eps), noise_level(schedule, t, len(x_0)))
    return jnp.mean((estimate.eps - eps) ** 2, axis=(1, 2, 3))


def training_loss(
    schedule: Schedule, predict: Predictor, x_0: jax.Array, t: jax.Array, eps: jax.Array, min_snr: float = 0.0
) -> jax.Array:
    """Return the mean squared error of the output for each image, [B]; for `eps` it is line 6 of Algorithm 1.

    Args:
      x_0: [B, H, W, C] in [-1, 1].
      t: [B], steps of the schedule.
      eps: [B, H, W, C], the noise.
      min_snr: if not 0, the gamma of min-SNR-gamma (arXiv 2303.09556): the squared error of x_0 is weighted by
        min(snr, gamma), snr = (a / s)**2. For `eps` this is min(snr, gamma) / snr, for `v` min(snr, gamma) / (snr + 1).
    """
    level, about = noise_level(schedule, t, len(x_0)), predict.about
    error = predict.output(q_sample(schedule, x_0, t, eps), level) - predict.target.wanted(x_0, eps, level, about)
    if min_snr:  # the roots are multiplied, since a square can be 0 or infinite in float32
        root = jnp.minimum(level.sqrt_alpha_bar / level.sqrt_one_minus_alpha_bar, min_snr**0.5)
        error *= root * predict.target.gain(level, about)
    return jnp.mean(error**2, axis=(1, 2, 3))


def earlier_sigma(sigma: jax.Array, doublings: jax.Array) -> jax.Array:
    """Return the noise r < sigma with which consistency tuning compares, [B] (ECT, arXiv 2406.14548, section 4).

    The gap starts at about half of sigma, or at all of it if sigma is small, and halves with each of the `doublings`,
    of which the first MOST_DOUBLINGS count.
    """
    doublings = jnp.minimum(doublings, MOST_DOUBLINGS)
    return sigma * jnp.maximum(1 - 2.0 ** -(doublings + 1) * (1 + 8 * jax.nn.sigmoid(-sigma)), 0)


def consistency_loss(
    schedule: Schedule, predict: Predict, x_0: jax.Array, sigma: jax.Array, eps: jax.Array, doublings: jax.Array
) -> jax.Array:
    """Return the loss of consistency tuning for each image, [B] (ECT, arXiv 2406.14548, algorithm 1).

    It is the distance of the clean image at noise sigma from that at less noise r, with the same eps, divided by
    sigma - r. The second is not differentiated, and is x_0 if r = 0.

    Args:
      sigma: [B], sqrt((1 - alpha_bar) / alpha_bar).
      doublings: how often the gap between sigma and r has halved; see `earlier_sigma`.
    """
    r = earlier_sigma(sigma, doublings)
    least = jnp.exp(-schedule.log_snr[0]).astype(sigma.dtype)  # below it the network is not trained, and r counts as 0

    def clean(sigma: jax.Array) -> jax.Array:
        level = level_of_sigma(schedule, sigma)
        return predict(level.sqrt_alpha_bar * x_0 + level.sqrt_one_minus_alpha_bar * eps, level).x_0

    target = jnp.where((r > least).reshape(-1, 1, 1, 1), clean(jnp.maximum(r, least)), x_0)
    error = clean(sigma) - jax.lax.stop_gradient(target)
    distance = jnp.sqrt(jnp.sum(error**2, axis=(1, 2, 3)) + 1e-12)
    return distance / (sigma - jnp.where(r > least, r, 0))
