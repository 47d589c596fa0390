"""Conversion of settings between the section `ddpm` of a configuration and the `config.json` of a `UNet2DModel`."""

from collections.abc import Collection, Mapping
from typing import Any

from vaedm_jax.errors import UserError, brief, check_range
from vaedm_jax.interop.diffusers_unet import Architecture
from vaedm_jax.models.unet import CONVENTIONS

CLASS, NARROW = "UNet2DModel", "NarrowUNet2DModel"  # the second is in diffusers_code/unet.py
# The arguments of UNet2DModel that must have their defaults here.
FIXED = dict(
    center_input_sample=False, time_embedding_type="positional", mid_block_type="UNetMidBlock2D",
    mid_block_scale_factor=1, downsample_type="conv", upsample_type="conv", act_fn="silu", norm_num_groups=32,
    add_attention=True, class_embed_type=None, num_class_embeds=None,
)  # fmt: skip
# The defaults of those that may have other values.
DEFAULTS = CONVENTIONS["published"]._asdict() | dict(
    flip_sin_to_cos=True, layers_per_block=2, dropout=0.0, attention_head_dim=8
)
# The form of a configuration; see `storage.json_file`.
FORM = {"_class_name": str, "sample_size": (int, [int]), "block_out_channels": [int]}
FORM |= {"down_block_types": [str], "up_block_types": [str], "dropout?": float, "layers_per_block?": int}
FORM |= {"attention_head_dim?": (int, None), "flip_sin_to_cos?": bool}
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")  # without attention, with attention
MOST_LEVELS, MOST_LAYERS, WHY = 16, 64, "no device holds a network so large"


def unet_config(ddpm: Any, image_size: int) -> tuple[Architecture, dict[str, Any]]:
    """Return the architecture of a section `ddpm`, and its configuration for diffusers.

    Raises:
      UserError: UNet2DModel cannot have these heads.
    """
    widths = [ddpm.channels * m for m in ddpm.multipliers]
    attends = [2**level in ddpm.attention for level in range(len(widths))]
    attended = widths_with_attention(widths, attends)
    if ddpm.heads > 1 and len(attended) > 1:
        raise UserError(
            f"ddpm.heads = {ddpm.heads}: attention is at the widths {' and '.join(map(str, attended))}, but all heads "
            "of UNet2DModel have one width; only models with one head, or with one width, can be exported"
        )
    narrow = {"_class_name": NARROW, "channels": ddpm.channels} if widths[0] != ddpm.channels else {}
    config = {"_class_name": CLASS, **narrow} | {
        "sample_size": image_size // ddpm.patch,
        "in_channels": 3 * ddpm.patch**2 * (1 if ddpm.variant == "uncond" else 2),
        "out_channels": 3 * ddpm.patch**2,
        "block_out_channels": widths,
        "down_block_types": [DOWN[a] for a in attends],
        "up_block_types": [UP[a] for a in reversed(attends)],
        "layers_per_block": ddpm.blocks,
        "attention_head_dim": None if ddpm.heads == 1 else widths[-1] // ddpm.heads,
        "attn_norm_num_groups": FIXED["norm_num_groups"],
        "resnet_time_scale_shift": "scale_shift" if ddpm.scale_shift else "default",
        "dropout": ddpm.dropout,
    }
    return Architecture(attends, ddpm.blocks, ddpm.heads), config | CONVENTIONS[ddpm.conventions]._asdict()


def parse_config(config: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any]]:
    """Return the architecture that a configuration of FORM describes, and settings of the section `ddpm`.

    The settings that follow from names and shapes of the parameters are left to `architecture.unet_settings`.

    Raises:
      UserError: the U-Net of this package cannot have this architecture.
    """
    for name, value in FIXED.items():
        check_known(name, config.get(name, value), (value,))
    groups = FIXED["norm_num_groups"]  # diffusers takes them for null, unless the embedding scales and shifts
    scaled = config.get("resnet_time_scale_shift", "default") != "default"
    check_known("attn_norm_num_groups", config.get("attn_norm_num_groups"), (groups,) if scaled else (groups, None))
    config = DEFAULTS | config
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    check_range("number of block_out_channels", len(widths), 1, MOST_LEVELS, WHY)
    check_range("layers_per_block", layers, 1, MOST_LAYERS, WHY)
    attends = [kind == DOWN[True] for kind in config["down_block_types"]]
    for name, wanted in (("down", [DOWN[a] for a in attends]), ("up", [UP[a] for a in reversed(attends)])):
        check_known(f"{name}_block_types", config[f"{name}_block_types"], (wanted,))
    if len(attends) != len(widths):
        raise UserError(f"there are {len(widths)} block_out_channels, but {len(attends)} down_block_types")
    conventions = {name: c._asdict() for name, c in CONVENTIONS.items()}
    found = {name: config[name] for name in conventions["ddpm"]}
    check_known("freq_shift, downsample_padding, norm_eps", found, conventions.values())
    settings = {
        "heads": find_heads(config["attention_head_dim"], widths_with_attention(widths, attends)),
        "conventions": next(name for name, values in conventions.items() if values == found),
        "dropout": float(config["dropout"]),
    }
    return Architecture(attends, layers, settings["heads"]), settings


def side_of(config: Mapping[str, Any]) -> int:
    """Return the side of the images of a configuration of FORM; raise UserError if they are not square."""
    size = config["sample_size"]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1]:
        raise UserError(f"sample_size = {brief(repr(size))}: only square images can be imported")
    return sides[0]


def check_known(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise UserError unless a value of a configuration is one of those that can be imported."""
    if value not in allowed:
        wanted = " or ".join(map(repr, allowed))
        raise UserError(f"{name} = {brief(repr(value))}: only {wanted} can be imported")


def find_heads(width: int | None, attended: list[int]) -> int:
    """Return the number of heads of a width (None: one head) in attention at some widths; UserError if it varies."""
    heads = {1 if width is None else w / width if width > 0 else 0 for w in attended}
    if len(heads) > 1 or 0 in heads or heads != {int(h) for h in heads}:
        raise UserError(
            f"attention_head_dim = {width}: it does not divide attention at the widths {attended} into one number of "
            "heads; only one number for all, or null, can be imported"
        )
    return int(heads.pop())


def widths_with_attention(widths: list[int], attends: list[bool]) -> list[int]:
    """Return the distinct widths, ascending, of the levels with attention and of the middle, which always has it."""
    return sorted({w for w, attention in zip(widths, attends, strict=True) if attention} | {widths[-1]})
