"""Your own pictures, of 32 to 256 pixels: networks, batches and steps follow from the size and a budget.

    python -m vaedm_jax.main --config=own:64 --config.data.path=my/pictures --workdir=runs/mine --mode=train

The parts after the colon may come in any order, joined by "-": a multiple of 16 (64 pixels by default), `small` (the
default, for a CPU or one GPU) or `base` (for GPUs and TPUs), and `form1`, `form2` or `uncond`. --mode=new looks at the
pictures, and proposes a size and a budget.
"""

from vaedm_jax.config.own import own_config


def get_config(variant="form1"):
    return own_config(variant)
