"""A configuration for own pictures: block strings, widths, batches and steps follow from the size and a budget."""

from vaedm_jax.config.build import Config, base_config
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.errors import UserError

SIZES = range(32, 257, 16)
# For each budget: widths of the VAE at the full size and at most; z; width of the U-Net; blocks; the patches at 32, up
# to 96 and up to 256 pixels; batches at up to 64 and up to 128 pixels, and above; steps of both stages.
BUDGETS = {
    "small": ((16, 128), 32, 32, 1, (2, 2, 4), (64, 32, 16), (6_000, 10_000)),
    "base": ((32, 512), 128, 128, 2, (1, 2, 4), (128, 64, 32), (50_000, 200_000)),
}


def own_config(parts: str = "form1") -> Config:
    """Return the configuration for a variant, a size and a budget, such as `form1-64-small`.

    Args:
      parts: some of them in any order, joined by "-"; by default form1, 64 pixels, and `small`, for a CPU or one GPU.

    Raises:
      UserError: a part is unknown.
    """
    variant, size, budget = "form1", 64, "small"
    for part in parts.split("-"):
        if part in FORMULATIONS:
            variant = part
        elif part in BUDGETS:
            budget = part
        elif part.isdecimal() and int(part) in SIZES:
            size = int(part)
        else:
            known = f"{', '.join(FORMULATIONS)}; {', '.join(BUDGETS)}; or a multiple of 16 from 32 to 256, the pixels"
            raise UserError(f"'{part}' is no part of a configuration; give {known}")
    widths, z_dim, channels, blocks, patches, batches, steps = BUDGETS[budget]
    patch = patches[(size > 32) + (size > 96)]
    batch = batches[(size > 64) + (size > 128)]

    c = base_config(variant).unlock()
    c.data.image_size = size
    c.vae.enc_block, c.vae.dec_block, c.vae.channels = vae_blocks(size, *widths, z_dim)
    c.vae.steps, c.vae.batch_size, c.vae.learning_rate, c.vae.decay = steps[0], batch, 1e-3, "cosine"
    c.vae.kl_warmup, c.vae.ema_decay, c.vae.clip = steps[0] // 4, 0.999, 1.0
    c.ddpm.channels, c.ddpm.blocks, c.ddpm.patch = channels, blocks, patch
    c.ddpm.multipliers, c.ddpm.attention = levels(size // patch)
    c.ddpm.scale_shift, c.ddpm.dropout = True, 0.0 if budget == "small" else 0.1
    c.ddpm.steps, c.ddpm.batch_size, c.ddpm.decay = steps[1], batch, "cosine"
    c.ddpm.learning_rate, c.ddpm.warmup, c.ddpm.ema_decay = (1e-3, 200, 0.9995) if blocks == 1 else (2e-4, 2000, 0.9999)
    c.ddpm.ema_schedule = "constant"
    c.log.pictures, c.checkpoint.every, c.sample.nearest = 1000, 1000, True
    if variant != "form2":
        c.ddpm.prediction, c.ddpm.t_sampling = "residual", "lognormal"
        c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "noise", 10
    return c.lock()


def vae_blocks(size: int, narrow: int, wide: int, z_dim: int) -> tuple[str, str, str]:
    """Return the strings of the encoder, of the decoder and of the widths (models/blocks.py).

    The size is halved until it is at most 7 or odd, and then reduced to 1 at once. Each half has twice the width.
    """
    sizes = [size]
    while sizes[-1] > 7 and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    last = sizes[-1]
    down = [f"{s}d2,{s}t{s // 2}" if s > 16 else f"{s}x1,{s}d2,{s}t{s // 2}" for s in sizes[:-1]]
    up = [f"{s}x1,{s}u2,{s}t{2 * s}" for s in reversed(sizes[1:])]
    encoder = ",".join([*down, f"{last}x1,{last}d{last},{last}t1,1x1"])
    decoder = ",".join([f"1x1,1u{last},1t{last}", *up, f"{size}x1"])
    widths = ",".join(f"{s}:{min(wide, narrow * 2**i)}" for i, s in enumerate(sizes))
    return encoder, decoder, f"{widths},1:{z_dim}"


def levels(grid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the multipliers of a U-Net that works on grid x grid patches, and the levels with attention."""
    multipliers = (1, 2, 2, 3) if grid >= 32 and grid % 8 == 0 else (2, 2, 3)
    return multipliers, (2 if grid <= 32 else 4,)
