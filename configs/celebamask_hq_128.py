"""CelebAMask-HQ at 128 x 128, as in the paper (appendix E), with missing details from the authors' code.

    python -m vaedm_jax.main --config=configs/celebamask_hq_128.py --config.data.path=CelebAMask-HQ \
        --workdir=runs/celebamask_hq_128 --mode=train

The VAE has 21,098,275 parameters, and is trained for 180 epochs with batches of 40. The U-Net (conditioned on x_hat)
has 113,676,675, and is trained for 250 epochs with batches of 64. A step of the U-Net took the paper's authors 0.74 s.
All of the 30,000 images are trained on, except the one that is always held out.
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
