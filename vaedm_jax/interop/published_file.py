"""Reading of the networks in a published file of PyTorch or PyTorch Lightning."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.interop import names, torch_file

# For each network: a parameter that it always has, the prefixes that its names may have, the preferred one first, and
# its table of names. The target network is the average of the parameters, which is sampled from.
UNET = "input_blocks.0.0.weight", ("target_network.decoder.", "online_network.decoder.", ""), names.UNET
VAE = "enc.in_conv.weight", ("vae.", ""), names.VAE

FLOATS = tuple(map(np.dtype, ("f8", "f4", "f2", ml_dtypes.bfloat16)))
State = dict[str, np.ndarray]


class Network(NamedTuple):
    """A network in a file.

    Attributes:
      prefix: the prefix of its names in the file.
      state: its parameters by their PyTorch names, without the prefix.
    """

    prefix: str
    state: State


class Found(NamedTuple):
    """The content of a file.

    Attributes:
      unet, vae: the networks; None if the file does not have them.
      betas: [T], the schedule; None if the file does not have it.
      hyper: the hyper-parameters that Lightning saves.
      left_out: counts of the entries that are not read, by the first part of their names.
      settings: the settings of a configuration that the file gives, by their full names.
    """

    unet: Network | None
    vae: Network | None
    betas: np.ndarray | None
    hyper: Mapping[str, Any]
    left_out: dict[str, int]
    settings: Mapping[str, Any] = MappingProxyType({})


def networks_in(path: str | os.PathLike) -> Found:
    """Return the content of a file.

    Raises:
      UserError: the file cannot be read, has neither network, or has an array that is not valid.
    """
    content = torch_file.read(path)
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    tensors = {name: a for name, a in state.items() if isinstance(name, str) and isinstance(a, np.ndarray)}
    unet, vae = network(tensors, *UNET), network(tensors, *VAE)
    if not (unet or vae):
        shown = ", ".join(list(tensors)[:3]) or "none"
        raise UserError(
            f"{path}: it has neither a U-Net ('{UNET[0]}') nor a VAE ('{VAE[0]}'); its first tensors: {shown}"
        )
    betas = tensors.get("target_network.betas", tensors.get("online_network.betas"))
    for found in filter(None, (unet, vae)):
        for name, array in found.state.items():
            check_numbers(path, found.prefix + name, array)
    if betas is not None:
        check_numbers(path, "betas", betas)
        if betas.ndim != 1 or not betas.size:
            raise UserError(f"{path}: 'betas' has the shape {list(betas.shape)}; it should be [T]")
    taken = {found.prefix + name for found in (unet, vae) if found for name in found.state}
    left = [re.match(r"(?:\w+\.decoder|[^.]*)", name)[0] for name in tensors if name not in taken]
    left += [str(name) for name in content if content is not state and name not in ("state_dict", "hyper_parameters")]
    hyper = content.get("hyper_parameters", {})
    return Found(unet, vae, betas, hyper if isinstance(hyper, dict) else {}, dict(Counter(left)))


def check_numbers(path: str | os.PathLike, name: str, array: np.ndarray) -> None:
    """Raise UserError unless a tensor has floats that are finite in float32."""
    if array.dtype not in FLOATS:
        raise UserError(f"{path}: '{name}' has the type {array.dtype}; it should have floats")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"{path}: '{name}' has numbers that are not finite")


def network(tensors: State, mark: str, prefixes: tuple[str, ...], table: names.Table) -> Network | None:
    """Return the network with the first of the prefixes that is found; None if there is none.

    Args:
      mark: the name of a parameter that the network always has.
    """
    for prefix in prefixes:
        if prefix + mark in tensors:
            part = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
            return Network(prefix, {name: a for name, a in part.items() if names.is_known(name, table)})
    return None
