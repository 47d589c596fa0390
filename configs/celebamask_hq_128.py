"""CelebAMask-HQ at 128 x 128 as in the paper (appendix E); where it is silent, as in the authors' code.

    python -m vaedm_jax.main --config=configs/celebamask_hq_128.py --config.data.path=CelebAMask-HQ \
        --workdir=runs/celebamask_hq_128 --mode=train

A VAE of 21,098,275 parameters for 180 epochs of batches of 40, then a U-Net of 113,676,675 (conditioned on x_hat) for
250 epochs of 64. The paper took 0.74 s a step of the U-Net. All 30,000 images but the last of the split are trained on.
"""

from vaedm_jax.config import base_config


def get_config(variant="form1"):
    c = base_config(variant)
    c.data.path, c.data.image_size, c.data.held_out = "CelebAMask-HQ", 128, 0.0

    c.vae.enc_block = "128x1,128d2,128t64,64x3,64d2,64t32,32x3,32d2,32t16,16x7,16d2,16t8,8x3,8d2,8t4,4x3,4d4,4t1,1x2"
    c.vae.dec_block = "1x1,1u4,1t4,4x2,4u2,4t8,8x2,8u2,8t16,16x6,16u2,16t32,32x2,32u2,32t64,64x2,64u2,64t128,128x1"
    c.vae.channels = "128:64,64:64,32:128,16:128,8:256,4:512,1:1024"
    c.vae.batch_size, c.vae.epochs = 40, 180.0

    c.ddpm.multipliers, c.ddpm.attention = (1, 1, 2, 2, 4, 4), (16,)
    c.ddpm.batch_size, c.ddpm.epochs, c.ddpm.learning_rate, c.ddpm.dropout = 64, 250.0, 2e-5, 0.0
    c.plan.images = 30_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
