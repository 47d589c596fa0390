"""CIFAR-10 as in the paper (appendix E); where it is silent, as in the DDPM paper and the authors' code.

    python -m vaedm_jax.main --config=configs/cifar10.py --workdir=runs/cifar10 --mode=train

A VAE of 9,243,107 parameters for 500 epochs of batches of 128, then a U-Net of 35,749,763 (conditioned on x_hat) for
1,000 epochs of 128. The paper took 0.2 s a step of the U-Net on a TPU v2-8. The defaults are this recipe.
"""

from vaedm_jax.config import base_config


def get_config(variant="form1"):
    c = base_config(variant)
    c.data.source, c.data.image_size = "cifar10", 32
    c.plan.images = 50_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
