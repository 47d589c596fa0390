"""CelebA at 64 x 64, as in the authors' code (main/configs/dataset/celeba64/train.yaml).

    python -m vaedm_jax.main --config=configs/celeba_64.py --config.data.path=img_align_celeba \
        --workdir=runs/celeba_64 --mode=train

The VAE has 14,011,907 parameters, and the U-Net (conditioned on x_hat) has 82,644,099, as in the published checkpoint.
Their file sets only a limit of 5,000 epochs. This one trains the VAE for 300 epochs and the U-Net for 500,000 steps,
as the DDPM paper did for CelebA-HQ at 256 x 256. Their batch size is 16 on each of eight cores.
"""

from vaedm_jax.config import published_config
from vaedm_jax.models.published import VAES


def get_config(variant="form1"):
    c = published_config(variant)
    c.data.path, c.data.image_size, c.data.held_out = "img_align_celeba", 64, 0.0

    c.vae.enc_block, c.vae.dec_block, c.vae.channels = VAES["celeba64"].blocks
    c.vae.batch_size, c.vae.epochs = 16, 300.0

    c.ddpm.multipliers, c.ddpm.attention, c.ddpm.dropout = (1, 2, 2, 2, 4), (16,), 0.1
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 128, 500_000, 2e-4
    c.plan.images = 202_599
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
