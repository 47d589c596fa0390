"""The networks in a published file of PyTorch or PyTorch Lightning, and what else is in it."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.interop import names, torch_file

# A parameter that each network has, what may stand before its names, the best first, and its table of names. The target
# network is the average, which is sampled with.
UNET = "input_blocks.0.0.weight", ("target_network.decoder.", "online_network.decoder.", ""), names.UNET
VAE = "enc.in_conv.weight", ("vae.", ""), names.VAE

FLOATS = tuple(map(np.dtype, ("f8", "f4", "f2", ml_dtypes.bfloat16)))
State = dict[str, np.ndarray]


class Network(NamedTuple):
    """The parameters of a network by their names in PyTorch, and what stood before these in the file."""

    prefix: str
    state: State


class Found(NamedTuple):
    """What is in a file.

    Attributes:
      unet, vae: None where there is none. betas: [T], of the schedule; None where it is not told.
      hyper: the hyper-parameters that Lightning saves.
      left_out: of what was not taken, the names up to the network, and how many each stands for.
    """

    unet: Network | None
    vae: Network | None
    betas: np.ndarray | None
    hyper: Mapping[str, Any]
    left_out: dict[str, int]


def networks_in(path: str | os.PathLike) -> Found:
    """What is in a file; UserError where it holds none of the networks."""
    content = torch_file.read(path)
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    tensors = {name: a for name, a in state.items() if isinstance(name, str) and isinstance(a, np.ndarray)}
    unet, vae = network(tensors, *UNET), network(tensors, *VAE)
    if not (unet or vae):
        shown = ", ".join(list(tensors)[:3]) or "none"
        raise UserError(
            f"{path}: there is neither a U-Net ('{UNET[0]}') nor a VAE ('{VAE[0]}') in it; its tensors: {shown}"
        )
    betas = tensors.get("target_network.betas", tensors.get("online_network.betas"))
    for found in filter(None, (unet, vae)):
        for name, array in found.state.items():
            check_numbers(path, found.prefix + name, array)
    if betas is not None:
        check_numbers(path, "betas", betas)
        if betas.ndim != 1 or not betas.size:
            raise UserError(f"{path}: 'betas' is {list(betas.shape)}; it should be [T]")
    taken = {found.prefix + name for found in (unet, vae) if found for name in found.state}
    left = [re.match(r"(?:\w+\.decoder|[^.]*)", name)[0] for name in tensors if name not in taken]
    left += [str(name) for name in content if content is not state and name not in ("state_dict", "hyper_parameters")]
    hyper = content.get("hyper_parameters", {})
    return Found(unet, vae, betas, hyper if isinstance(hyper, dict) else {}, dict(Counter(left)))


def check_numbers(path: str | os.PathLike, name: str, array: np.ndarray) -> None:
    """UserError names a tensor that is not of finite floats, or is too large for float32."""
    if array.dtype not in FLOATS:
        raise UserError(f"{path}: '{name}' is of the type {array.dtype}; parameters are floats")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"{path}: '{name}' has numbers that are not finite")


def network(tensors: State, mark: str, prefixes: tuple[str, ...], table: names.Table) -> Network | None:
    """The tensors behind the first of the prefixes with which the network is there."""
    for prefix in prefixes:
        if prefix + mark in tensors:
            part = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
            return Network(prefix, {name: a for name, a in part.items() if names.is_known(name, table)})
    return None
