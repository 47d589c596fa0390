"""Faces that are drawn by number, 8,192 of which are embedded, sized as `emoji.py` for a CPU with two cores.

    python -m vaedm_jax.main --config=configs/avatars.py --workdir=runs/avatars --mode=train

More of them, or larger ones, are drawn at the first use (docs/data.md): --config.data.avatars=50000
"""

from vaedm_jax.config import base_config


def get_config(variant="form1"):
    c = base_config(variant)
    c.data.source = "avatars"

    c.vae.enc_block = "32d2,32t16,16d2,16t8,8x1,8d2,8t4,4x1,4d4,4t1,1x1"
    c.vae.dec_block = "1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32,32x1"
    c.vae.channels = "32:16,16:64,8:128,4:256,1:64"
    c.vae.batch_size, c.vae.steps, c.vae.learning_rate = 32, 4000, 5e-4
    c.vae.ema_decay = 0.999

    c.ddpm.channels, c.ddpm.multipliers, c.ddpm.blocks, c.ddpm.patch = 64, (1, 2, 2), 1, 2
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 32, 12800, 1e-3
    c.ddpm.warmup, c.ddpm.dropout = 500, 0.0
    c.ddpm.ema_decay, c.ddpm.ema_schedule = 0.999, "constant"

    c.log.pictures, c.checkpoint.every = 500, 500
    c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "warm", 5
    if variant == "uncond":
        c.sample.sampler, c.sample.start, c.sample.steps = "ddpm", "noise", 50
    c.sample.nearest = True
    return c.lock()
