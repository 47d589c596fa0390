"""Conversion of names and layouts between the published U-Net and `UNet2DModel` of the library diffusers.

Both have the same layers, except that `UNet2DModel` keeps q, k and v of attention in three layers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vaedm_jax.errors import UserError

State = dict[str, np.ndarray]

# Modules of UNet2DModel and those of the published U-Net: of the whole, of a residual block, and of attention.
WHOLE = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
]
MIDDLE = [
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
]
RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]
ATTENTION = [("group_norm", "norm"), ("to_q,to_k,to_v", "qkv"), ("to_out.0", "proj_out")]
PARTS = {"resnets": RESNET, "attentions": ATTENTION}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15


class Architecture(NamedTuple):
    """What names, shapes and layouts of the parameters depend on.

    Attributes:
      attends: for each level, whether it has attention.
      layers: the number of residual blocks per level.
      heads: the number of attention heads.
    """

    attends: list[bool]
    layers: int
    heads: int


def blocks(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Yield (their block, our block) for all blocks of the levels, in pairs of names such as `down_blocks.0.resnets.1`.

    These include blocks that the U-Net lacks, such as attention at a level without it.
    """
    attends, n, _ = architecture
    for level, attention in enumerate(attends):
        down, up = f"down_blocks.{level}", f"up_blocks.{len(attends) - 1 - level}"
        first_in, first_out = level * (n + 1) + 1, (len(attends) - 1 - level) * (n + 1)
        for j in range(n):
            yield f"{down}.resnets.{j}", f"input_blocks.{first_in + j}.0"
            yield f"{down}.attentions.{j}", f"input_blocks.{first_in + j}.1"
        yield f"{down}.downsamplers.0.conv", f"input_blocks.{first_in + n}.0.op"
        for j in range(n + 1):
            yield f"{up}.resnets.{j}", f"output_blocks.{first_out + j}.0"
            yield f"{up}.attentions.{j}", f"output_blocks.{first_out + j}.1"
        yield f"{up}.upsamplers.0.conv", f"output_blocks.{first_out + n}.{1 + attention}.conv"


def parameters(architecture: Architecture) -> Iterator[tuple[list[str], str]]:
    """Yield (their names, our name) for all parameters that the U-Net can have: three of theirs for our q, k and v."""
    for theirs, ours in (*WHOLE, *MIDDLE, *blocks(architecture)):
        kind = next((kind for kind in PARTS if f".{kind}." in theirs), "")
        for parts, part in PARTS.get(kind, [("", "")]):
            for leaf in ("weight", "bias"):
                yield [dotted(theirs, name, leaf) for name in parts.split(",")], dotted(ours, part, leaf)


def dotted(*parts: str) -> str:
    """Return the name of a parameter from the parts that are not empty."""
    return ".".join(filter(None, parts))


def swap(array: np.ndarray, axis: int, first: int) -> np.ndarray:
    """Return an array of which an axis runs over pairs (i, j), i < first, with the axis over pairs (j, i)."""
    split = array.reshape(*array.shape[:axis], first, -1, *array.shape[axis + 1 :])
    return split.swapaxes(axis, axis + 1).reshape(array.shape)


def regroup_pixels(state: State, to_diffusers: bool) -> State:
    """Return the parameters of a UNet2DModel with the channels of patches ordered by pixel and colour, or back.

    This package orders them by pixel, then by colour; PyTorch's `pixel_unshuffle` does it by colour, then by pixel.
    """
    inputs, outputs = state["conv_in.weight"].shape[1], state["conv_out.weight"].shape[0]
    pixels, changed = outputs // 3, {}
    for name, axis, colours in (
        ("conv_in.weight", 1, inputs // pixels),  # 6 if the network is shown x_hat
        ("conv_out.weight", 0, 3),
        ("conv_out.bias", 0, 3),
    ):
        changed[name] = swap(state[name], axis, pixels if to_diffusers else colours)
    return state | changed


def to_diffusers(state: State, architecture: Architecture) -> State:
    """Return the parameters of a published U-Net with the names and the layouts of UNet2DModel."""
    converted = {}
    for theirs, ours in parameters(architecture):
        if (array := state.get(ours)) is None:
            continue
        array = array[..., 0] if array.ndim == 3 else array  # of attention: a convolution over one position
        if len(theirs) == 1:
            converted[theirs[0]] = array
        else:
            q_k_v = array.reshape(architecture.heads, 3, -1, *array.shape[1:]).swapaxes(0, 1)
            converted |= {name: a.reshape(-1, *a.shape[2:]) for name, a in zip(theirs, q_k_v, strict=True)}
    return regroup_pixels(converted, to_diffusers=True)


def from_diffusers(state: State, architecture: Architecture, flip_sin_to_cos: bool = True) -> State:
    """Return the parameters of a UNet2DModel with the published names and layouts; the inverse of `to_diffusers`.

    Args:
      flip_sin_to_cos: whether cosines come before sines in its embedding of t, as in ours.

    Raises:
      UserError: a parameter is missing, or has a shape that a U-Net of this kind cannot have.
    """
    converted = {}
    try:
        state = regroup_pixels(state, to_diffusers=False)
        for theirs, ours in parameters(architecture):
            if not any(name in state for name in theirs):
                continue
            arrays = [state[name] for name in theirs]
            if len(arrays) > 1:
                arrays = [a.reshape(architecture.heads, -1, *a.shape[1:]) for a in arrays]
                arrays = [np.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[2:])]
            over_one_position = ours.endswith((".qkv.weight", ".proj_out.weight"))
            converted[ours] = arrays[0][..., None] if over_one_position else arrays[0]
        if not flip_sin_to_cos:
            embed = converted["time_embed.0.weight"]  # [O, I]
            converted["time_embed.0.weight"] = np.roll(embed, embed.shape[1] // 2, axis=1)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"a parameter of the U-Net is missing or has another shape ({error})") from error
    return converted
