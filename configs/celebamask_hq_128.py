"""CelebAMask-HQ at 128 x 128 as in the paper (appendix E); where it is silent, as in the authors' code.

    python -m vaedm_jax.main --config=configs/celebamask_hq_128.py --config.data.path=CelebAMask-HQ \
        --workdir=runs/celebamask_hq_128 --mode=train

A VAE of 21,098,275 parameters for 180 epochs of batches of 40, then a U-Net of 113,676,675 (conditioned on x_hat) for
250 epochs of 64. The paper took 0.74 s a step of the U-Net. All 30,000 images but the last of the split are trained on.
"""

from vaedm_jax.config import base_config
from vaedm_jax.models.published import VAES


def get_config(variant="form1"):
    c = base_config(variant)
    c.data.path, c.data.image_size, c.data.held_out = "CelebAMask-HQ", 128, 0.0

    c.vae.enc_block, c.vae.dec_block, c.vae.channels = VAES["celebamaskhq128"].blocks
    c.vae.batch_size, c.vae.epochs = 40, 180.0

    c.ddpm.multipliers, c.ddpm.attention = (1, 1, 2, 2, 4, 4), (16,)
    c.ddpm.batch_size, c.ddpm.epochs, c.ddpm.learning_rate, c.ddpm.dropout = 64, 250.0, 2e-5, 0.0
    c.plan.images = 30_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
