"""CelebA-HQ at 256 x 256, as in the authors' code (main/configs/dataset/celebahq/train.yaml).

    python -m vaedm_jax.main --config=configs/celeba_hq_256.py --config.data.path=CelebAMask-HQ \
        --workdir=runs/celeba_hq_256 --mode=train

The VAE has 32,632,579 parameters, the U-Net (conditioned on x_hat) 113,676,675: those of the published checkpoint.
That file has no length of training but a limit of 5,000 epochs; here it is 300 epochs of the VAE, and 500,000 steps
of the U-Net, as the DDPM paper took for CelebA-HQ at 256 x 256. A batch is 8 on each of eight cores there.
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
