"""CIFAR-10, as in the paper (appendix E), with missing details from the DDPM paper and the authors' code.

    python -m vaedm_jax.main --config=configs/cifar10.py --workdir=runs/cifar10 --mode=train

The VAE has 9,243,107 parameters, and is trained for 500 epochs with batches of 128. The U-Net (conditioned on x_hat)
has 35,749,763, and is trained for 1,000 epochs with batches of 128. A step of the U-Net took the paper's authors 0.2 s
on a TPU v2-8. The default settings are those of this recipe.
"""

from vaedm_jax.config import base_config


def get_config(variant="form1"):
    c = base_config(variant)
    c.data.source, c.data.image_size = "cifar10", 32
    c.plan.images = 50_000
    c.log.pictures, c.log.sample_steps, c.checkpoint.every = 5000, 100, 5000
    return c.lock()
