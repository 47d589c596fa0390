"""The faces of `avatars.py` in ten minutes on two CPU cores, with networks of 0.4 M and 1.2 M parameters.

   python -m vaedm_jax.main --config=configs/avatars_small.py --workdir=runs/small --mode=train

The batch size is the one that learns most in a minute. After such a short training, samples of `ddpm` are less grainy
than those of other samplers.
"""

from vaedm_jax.config import small_config


def get_config(variant="form1"):
    c = small_config(variant)
    c.data.source = "avatars"
    c.vae.channels = "32:16,16:32,8:64,4:128,1:16"
    c.vae.dec_block = "1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32"
    c.vae.steps, c.vae.batch_size, c.vae.learning_rate, c.vae.decay = 2400, 16, 2e-3, "cosine"
    c.vae.kl_weight, c.vae.kl_warmup = 0.3, 600
    c.ddpm.channels, c.ddpm.scale_shift, c.ddpm.ema_decay = 32, True, 0.9995
    c.ddpm.steps, c.ddpm.learning_rate, c.ddpm.warmup, c.ddpm.decay = 1800, 2e-3, 100, "cosine"
    if variant != "form2":
        c.ddpm.prediction, c.ddpm.t_sampling = "residual", "lognormal"
    c.sample.sampler, c.sample.start, c.sample.steps = "ddpm", "noise", 50
    return c
