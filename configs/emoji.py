"""The embedded emoji of people, with a VAE of 1.6 M and a U-Net of 4.5 M parameters for two CPU cores.

    python -m vaedm_jax.main --config=configs/emoji.py --workdir=runs/emoji --mode=train

On two cores with AVX2, training takes about a quarter of an hour for the VAE and two and a half hours for the U-Net.
These times are estimated from the time of a train step. The U-Net works on patches of 2 x 2 pixels. docs/emoji.md
shows results of the three variants, which launch/emoji.sh trains.
"""

from vaedm_jax.config import small_config


def get_config(variant="form1"):
    c = small_config(variant)
    c.data.category = "People & Body"
    return c  # the sampler and the number of steps are the best of docs/emoji.md
