"""CelebA-HQ at 256 x 256, as in the authors' code (main/configs/dataset/celebahq/train.yaml).

    python -m vaedm_jax.main --config=configs/celeba_hq_256.py --config.data.path=CelebAMask-HQ \
        --workdir=runs/celeba_hq_256 --mode=train

The VAE has 32,632,579 parameters, and the U-Net (conditioned on x_hat) 113,676,675, as in the published checkpoint.
Their file sets only a limit of 5,000 epochs. This one trains the VAE for 300 epochs and the U-Net for 500,000 steps,
as the DDPM paper did for CelebA-HQ at 256 x 256. Their batch size is 8 on each of eight cores.
"""

from vaedm_jax.config import published_config
from vaedm_jax.models.published import VAES


def get_config(variant="form1"):
    c = published_config(variant)
    c.data.path, c.data.image_size, c.data.held_out = "CelebAMask-HQ", 256, 0.0

    c.vae.enc_block, c.vae.dec_block, c.vae.channels = VAES["celebahq256"].blocks
    c.vae.batch_size, c.vae.epochs = 16, 300.0

    c.ddpm.multipliers, c.ddpm.attention, c.ddpm.dropout = (1, 1, 2, 2, 4, 4), (16,), 0.0
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 64, 500_000, 2e-5
    c.plan.images = 30_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
