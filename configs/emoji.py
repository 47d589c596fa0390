"""The embedded emoji of people, sized for a CPU with two cores: a VAE of 1.6 M and a U-Net of 4.5 M parameters.

    python -m vaedm_jax.main --config=configs/emoji.py --workdir=runs/emoji --mode=train

By the time of a step, a quarter of an hour for the VAE and two hours and a half for the U-Net, which works on 2x2
patches, on two cores with AVX2. The README shows what they give then; the package has the weights (launch/weights.sh).
"""

from vaedm_jax.config import small_config


def get_config(variant="form1"):
    c = small_config(variant)
    c.data.category = "People & Body"
    return c  # its solvers and steps are the best of docs/samplers.md
