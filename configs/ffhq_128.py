"""FFHQ at 128 x 128, as in the authors' code (main/configs/dataset/ffhq/train.yaml).

    python -m vaedm_jax.main --config=configs/ffhq_128.py --config.data.path=ffhq \
        --workdir=runs/ffhq_128 --mode=train

The VAE has 21,098,275 parameters, and the U-Net (conditioned on x_hat) has 87,903,747.
Their file sets only a limit of 5,000 epochs. This one trains the VAE for 1,000 epochs and the U-Net for 500,000 steps,
as the DDPM paper did for CelebA-HQ at 256 x 256.
"""

from vaedm_jax.config import published_config
from vaedm_jax.models.published import VAES


def get_config(variant="form1"):
    c = published_config(variant)
    c.data.path, c.data.image_size, c.data.held_out = "ffhq", 128, 0.0

    c.vae.enc_block, c.vae.dec_block, c.vae.channels = VAES["celebamaskhq128"].blocks
    c.vae.batch_size, c.vae.epochs = 16, 1000.0

    c.ddpm.multipliers, c.ddpm.attention, c.ddpm.dropout = (1, 1, 2, 3, 4), (16,), 0.1
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 16, 500_000, 2e-5
    c.plan.images = 70_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
