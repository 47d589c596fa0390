"""Faces that are drawn from numbers, with the networks of `emoji.py`, which are small enough for two CPU cores.

    python -m vaedm_jax.main --config=configs/avatars.py --workdir=runs/avatars --mode=train

The package contains 8,192 faces. More, or larger ones, are drawn at the first use: --config.data.avatars=50000
(docs/data.md).

The refiner predicts what x_hat lacks (docs/training.md), so it needs only few steps from noise. form2 does not have
this target, and predicts eps as in the paper.
"""

from vaedm_jax.config import small_config


def get_config(variant="form1"):
    c = small_config(variant)
    c.data.source = "avatars"
    c.vae.learning_rate, c.vae.decay, c.vae.kl_warmup = 1e-3, "cosine", 1600
    c.ddpm.decay, c.ddpm.ema_decay = "cosine", 0.9995
    if variant != "form2":
        c.ddpm.prediction, c.ddpm.t_sampling = "residual", "lognormal"
        c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "noise", 10
    return c
