"""Faces that are drawn from numbers, with the networks of the weights in the package: 0.4 M and 2.1 M parameters.

    python -m vaedm_jax.main --config=configs/avatars.py --workdir=runs/avatars --mode=train

The package contains 8,192 faces. More, or larger ones, are drawn at the first use: --config.data.avatars=50000
(docs/data.md). Training takes some minutes on a GPU, and two hours on two CPU cores.

The refiner predicts what x_hat lacks (docs/training.md), so it needs only few steps from noise. form2 does not have
this target, and predicts eps as in the paper.
"""

from vaedm_jax.config import small_config


def get_config(variant="form1"):
    c = small_config(variant)
    c.data.source = "avatars"
    c.vae.channels = "32:16,16:32,8:64,4:128,1:16"
    c.vae.dec_block = "1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32"
    c.vae.steps, c.vae.batch_size, c.vae.learning_rate, c.vae.decay = 4000, 128, 2e-3, "cosine"
    c.vae.kl_warmup = 1000
    c.ddpm.channels, c.ddpm.multipliers, c.ddpm.scale_shift = 32, (2, 2, 3), True
    c.ddpm.steps, c.ddpm.batch_size, c.ddpm.learning_rate, c.ddpm.decay = 2500, 256, 1.5e-3, "cosine"
    c.ddpm.warmup = 200
    if variant != "form2":
        c.ddpm.prediction, c.ddpm.t_sampling = "residual", "lognormal"
        c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "noise", 10
    return c
