"""The losses of the diffusion model: in training, and of held-out images."""

import jax
import jax.numpy as jnp

from vaedm_jax.diffusion.prediction import Predict, Predictor
from vaedm_jax.diffusion.process import noise_level, q_sample
from vaedm_jax.diffusion.schedule import Schedule


def noise_loss(schedule: Schedule, predict: Predict, x_0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """Return the mean squared error of eps of each image, [B], which is comparable between targets."""
    estimate = predict(q_sample(schedule, x_0, t, eps), noise_level(schedule, t, len(x_0)))
    return jnp.mean((estimate.eps - eps) ** 2, axis=(1, 2, 3))


def training_loss(
    schedule: Schedule, predict: Predictor, x_0: jax.Array, t: jax.Array, eps: jax.Array, min_snr: float = 0.0
) -> jax.Array:
    """Return the mean squared error of the output for each image, [B]; for `eps` it is line 6 of Algorithm 1.

    Args:
      min_snr: if not 0, the gamma of min-SNR-gamma (arXiv 2303.09556): the squared error of x_0 is weighted by
        min(snr, gamma), snr = (a / s)**2. For `eps` this is min(snr, gamma) / snr, for `v` min(snr, gamma) / (snr + 1).
    """
    level, about = noise_level(schedule, t, len(x_0)), predict.about
    error = predict.output(q_sample(schedule, x_0, t, eps), level) - predict.target.wanted(x_0, eps, level, about)
    error = error**2
    if min_snr:
        error *= (
            jnp.minimum((level.sqrt_alpha_bar / level.sqrt_one_minus_alpha_bar) ** 2, min_snr)
            * predict.target.gain(level, about) ** 2
        )
    return jnp.mean(error, axis=(1, 2, 3))
