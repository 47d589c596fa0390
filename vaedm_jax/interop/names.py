"""Conversion of names and layouts between the published PyTorch networks and the Flax networks.

Each network has a table. Its rows have a pattern for a PyTorch module on the left and the path of the Flax module on
the right.
"""

import re
from collections.abc import Collection

import numpy as np
from flax.traverse_util import flatten_dict

from vaedm_jax.errors import UserError

_RES = [
    (r"in_layers\.0", "norm_0"),
    (r"in_layers\.2", "conv_0"),
    (r"emb_layers\.1", "emb"),
    (r"out_layers\.0", "norm_1"),
    (r"out_layers\.3", "conv_1"),
    (r"skip_connection", "skip"),
]
_ATTENTION = [("norm", "norm"), ("qkv", "qkv"), ("proj_out", "proj")]

UNET = [
    (r"time_embed\.0", "time_0"),
    (r"time_embed\.2", "time_1"),
    (r"proj\.0", "z_0"),
    (r"proj\.2", "z_1"),
    (r"input_blocks\.0\.0", "conv_in"),
    (r"input_blocks\.(\d+)\.0\.op", r"down_\1_pool"),
    (r"output_blocks\.(\d+)\.[12]\.conv", r"up_\1_unpool"),
    (r"out\.0", "norm_out"),
    (r"out\.2", "conv_out"),
    *((rf"input_blocks\.(\d+)\.0\.{t}", rf"down_\1_res/{f}") for t, f in _RES),
    *((rf"input_blocks\.(\d+)\.1\.{t}", rf"down_\1_attn/{f}") for t, f in _ATTENTION),
    *((rf"middle_block\.([02])\.{t}", rf"mid_\1_res/{f}") for t, f in _RES),
    *((rf"middle_block\.1\.{t}", f"mid_1_attn/{f}") for t, f in _ATTENTION),
    *((rf"output_blocks\.(\d+)\.0\.{t}", rf"up_\1_res/{f}") for t, f in _RES),
    *((rf"output_blocks\.(\d+)\.1\.{t}", rf"up_\1_attn/{f}") for t, f in _ATTENTION),
]

VAE = [
    (r"enc\.in_conv", "conv_in"),
    (r"enc\.block_mod\.(\d+)\.c([1-4])", r"encoder/block_\1/conv_\2"),
    (r"enc\.block_mod\.(\d+)", r"encoder/block_\1"),
    (r"enc\.(mu|logvar)", r"\1"),
    (r"dec\.block_mod\.(\d+)\.c([1-4])", r"decoder/block_\1/conv_\2"),
    (r"dec\.block_mod\.(\d+)", r"decoder/block_\1"),
    (r"dec\.last_conv", "conv_out"),
]


Table = list[tuple[str, str]]


def is_known(name: str, table: Table) -> bool:
    """Return whether the PyTorch network of a table can have a parameter of this name."""
    return any(re.fullmatch(rf"(?:{pattern})\.(?:weight|bias)", name) for pattern, _ in table)


def flax_path(name: str, table: Table) -> str:
    """Return the path of the Flax module (`down_3_res/conv_0`) that has the PyTorch parameter `name`.

    Raises:
      UserError: the network has no such parameter.
    """
    module = name.rpartition(".")[0]
    for pattern, template in table:
        if re.fullmatch(pattern, module):
            return re.sub(pattern, template, module)
    raise UserError(f"'{name}' is not a parameter of the published network")


def flax_leaf(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the last part of the Flax name of a parameter, and the array in the layout of Flax.

    A bias and the scale of a normalisation are unchanged. A convolution [O, I, h, w] becomes [h, w, I, O]. A linear
    layer [O, I] and a 1-D convolution with a kernel of size 1, [O, I, 1], become [I, O]. No network has other shapes;
    they are unchanged.
    """
    if name.endswith(".bias"):
        return "bias", array
    if array.ndim == 1:
        return "scale", array
    if array.ndim == 4:
        return "kernel", array.transpose(2, 3, 1, 0)
    return "kernel", array.reshape(array.shape[:2]).T if array.shape[2:] in ((), (1,)) else array


def from_torch(state: dict[str, np.ndarray], table: Table) -> dict:
    """Convert a PyTorch state dict to nested Flax parameters in float32.

    Raises:
      UserError: the network has no parameter of one of the names.
    """
    params: dict = {}
    for name, array in state.items():
        leaf, value = flax_leaf(name, np.asarray(array, np.float32))
        node = params
        for part in flax_path(name, table).split("/"):
            node = node.setdefault(part, {})
        node[leaf] = value
    return params


def _inverted(table: Table) -> Table:
    """Return the table for the other direction: rows of a pattern for the Flax path and a template of the PyTorch name.

    Groups of the PyTorch pattern become groups of the Flax pattern, and references to them in the template. `[12]` is
    not a group, so it stays in the template; `torch_module` replaces it.
    """
    inverted = []
    for pattern, template in table:
        groups = re.findall(r"\(.*?\)", pattern)
        flax = re.sub(r"\\(\d)", lambda m: groups[int(m[1]) - 1], template)  # noqa: B023
        numbers = iter(range(1, 9))
        torch = re.sub(r"\(.*?\)", lambda m: rf"\{next(numbers)}", pattern).replace(r"\.", ".")  # noqa: B023
        inverted.append((flax, torch))
    return inverted


def torch_module(path: str, inverted: Table, modules: Collection[str]) -> str:
    """Return the name of the PyTorch module for the Flax module at `path`.

    Args:
      inverted: a table that `_inverted` returned.
      modules: the paths of all modules of the Flax network.

    Raises:
      UserError: the published network has no such module.
    """
    for pattern, template in inverted:
        if re.fullmatch(pattern, path):
            attends = re.sub(r"_unpool$", "_attn/qkv", path) in modules  # then a module comes before this one
            return re.sub(pattern, template, path).replace("[12]", "2" if attends else "1")
    raise UserError(f"'{path}': the published network has no such module")


def to_torch(params: dict, table: Table) -> dict[str, np.ndarray]:
    """Convert nested Flax parameters to a PyTorch state dict; the inverse of `from_torch`.

    Raises:
      UserError: the published network has no module for one of the parameters.
    """
    flat = flatten_dict(params, sep="/")
    modules, inverted, state = {path.rpartition("/")[0] for path in flat}, _inverted(table), {}
    for path, array in flat.items():
        module, _, leaf = path.rpartition("/")
        array = np.asarray(array)
        if leaf == "kernel":
            over_one_axis = module.endswith(("/qkv", "/proj"))
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T[..., None] if over_one_axis else array.T
        name = torch_module(module, inverted, modules)
        state[f"{name}.{'bias' if leaf == 'bias' else 'weight'}"] = array
    return state
