"""Faces that are drawn by number, 8,192 of which are embedded, sized as `emoji.py` for a CPU with two cores.

    python -m vaedm_jax.main --config=configs/avatars.py --workdir=runs/avatars --mode=train

More of them, or larger ones, are drawn at the first use (docs/data.md): --config.data.avatars=50000

The refiner predicts what x_hat lacks (docs/training.md), and so needs few steps from noise; form2, which has no such
target, predicts eps as in the paper.
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
