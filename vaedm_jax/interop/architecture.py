"""The architecture of a published U-Net, as far as it follows from the names and shapes of its parameters."""

import math
from collections.abc import Mapping
from typing import Any

from vaedm_jax.errors import UserError


def unet_settings(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], bool]:
    """Return the settings of the section `ddpm` that describe a U-Net, and whether it is shown x_hat.

    The number of heads and the formulation do not follow from names and shapes.

    Args:
      shapes: the shapes of the parameters by their PyTorch names.

    Raises:
      UserError: these are not the parameters of a U-Net of the published kind.
    """
    try:
        first = shapes["input_blocks.0.0.weight"]
        width = first[0]
        blocks, widths, attention, i = [0], [], set(), 1
        while any(name.startswith(f"input_blocks.{i}.") for name in shapes):
            if f"input_blocks.{i}.0.op.weight" in shapes:
                blocks.append(0)
            else:
                blocks[-1] += 1
                widths[len(blocks) - 1 :] = [shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0]]
                if f"input_blocks.{i}.1.qkv.weight" in shapes:
                    attention.add(2 ** (len(blocks) - 1))
            i += 1
        image = shapes["out.2.weight"][0]
        rows = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
        multipliers, shown = tuple(w // width for w in widths), first[1] == 2 * image
        scale_shift = rows == 2 * widths[0]
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"the U-Net is not of the published kind: a parameter is missing or has another shape ({error})"
        ) from error
    settings = {
        "channels": width,
        "multipliers": multipliers,
        "blocks": max(blocks),
        "attention": tuple(sorted(attention)),
        "z_conditioning": "proj.0.weight" in shapes,
        "patch": max(1, math.isqrt(image // 3)),
        "scale_shift": scale_shift,
    }
    return settings, shown
