"""Names and layouts of the published PyTorch networks, and the Flax parameters that they are.

One table for each network: a pattern of the PyTorch name on the left, the path of the Flax parameter on the right.
"""

import re

import numpy as np

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


def flax_path(name: str, table: list[tuple[str, str]]) -> str:
    """The Flax module (`down_3_res/conv_0`) that owns the PyTorch parameter `name`, without its last part."""
    module = name.rpartition(".")[0]
    for pattern, template in table:
        if re.fullmatch(pattern, module):
            return re.sub(pattern, template, module)
    raise UserError(f"'{name}' is no parameter of this kind of network")


def flax_leaf(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The last part of the Flax name, and the array in Flax's layout.

    A bias and a norm's scale stay as they are. A convolution [O, I, h, w] becomes [h, w, I, O]; a linear layer [O, I]
    and a convolution over one axis with a kernel of one, [O, I, 1], become [I, O].
    """
    if name.endswith(".bias"):
        return "bias", array
    if array.ndim == 1:
        return "scale", array
    if array.ndim == 4:
        return "kernel", array.transpose(2, 3, 1, 0)
    return "kernel", array.reshape(array.shape[:2]).T


def from_torch(state: dict[str, np.ndarray], table: list[tuple[str, str]]) -> dict:
    """A PyTorch state dict as the nested Flax parameters; arrays become float32."""
    params: dict = {}
    for name, array in state.items():
        leaf, value = flax_leaf(name, np.asarray(array, np.float32))
        node = params
        for part in flax_path(name, table).split("/"):
            node = node.setdefault(part, {})
        node[leaf] = value
    return params
