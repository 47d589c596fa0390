"""The two networks, and the functions that build them from a configuration."""

from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaedm_jax.errors import UserError
from vaedm_jax.models.blocks import check_blocks, check_ladder
from vaedm_jax.models.unet import UNet
from vaedm_jax.models.vae import VAE


def build_vae(config: Any) -> VAE:
    """Return the VAE of a whole configuration.

    Raises:
      UserError: the block strings do not fit the images or each other.
    """
    size, vae = config.data.image_size, config.vae
    for name, *ends in (("enc_block", size, 1), ("dec_block", 1, size)):
        try:
            check_blocks(vae[name], vae.channels, *ends)
            if name == "dec_block":
                check_ladder(vae.enc_block, vae.dec_block)
        except UserError as error:
            raise UserError(f"vae.{name}, vae.channels: {error}") from error
    return VAE(**network_settings(VAE, vae))


def build_unet(config: Any) -> UNet:
    """Return the U-Net of a whole configuration.

    Raises:
      UserError: the levels do not fit the images, or a width cannot be divided into groups and heads.
    """
    size, ddpm = config.data.image_size, config.ddpm
    factor = ddpm.patch * 2 ** (len(ddpm.multipliers) - 1)
    if size % factor:
        raise UserError(
            f"data.image_size = {size}: it must be a multiple of {factor}, which is ddpm.patch times 2 for each of "
            "ddpm.multipliers but the first"
        )
    for number in ddpm.attention:
        if number & (number - 1):
            raise UserError(
                f"ddpm.attention = {tuple(ddpm.attention)}: no level has 1 / {number} of the size; give 2, 4, 8 ..."
            )
    for width in {ddpm.channels * m for m in (1, *ddpm.multipliers)}:
        if width % 32 or width % ddpm.heads:
            raise UserError(
                f"ddpm.channels, ddpm.multipliers: a width of {width} must be divisible by the 32 norm groups and by "
                f"ddpm.heads = {ddpm.heads}"
            )
    return UNet(**network_settings(UNet, ddpm))


# The fields of a network that change how it is computed or trained, but not its function or its parameters.
COMPUTATION = ("precision", "remat", "packed", "dropout")


def network_settings(network: type[VAE] | type[UNet], section: Any) -> dict[str, Any]:
    """Return the settings of a section of the configuration that are fields of a network."""
    values = {field.name: section[field.name] for field in fields(network) if field.name in section}
    return {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in values.items()}


def apply(network: VAE | UNet, params: Any, *inputs: Any, **how: Any) -> Any:
    """Return network(*inputs) with the parameters cast to the precision of the network.

    The output is in float32 at least. So are the statistics of normalisations, the softmax of attention and the
    embedding of t.

    Args:
      how: further arguments of the `apply` method of a Flax module, such as `method`.
    """
    cast = jax.tree.map(lambda a: a.astype(network.precision), params)
    return network.apply({"params": cast}, *inputs, **how)


# Compiled functions, since these are traced once for each network, also by `jax.eval_shape`.
@partial(jax.jit, static_argnames=("vae", "size"))
def init_vae(vae: VAE, size: int, key: jax.Array) -> Any:
    """Return random parameters for images of `size` x `size` pixels."""
    return vae.init(key, jnp.zeros((1, size, size, vae.image_channels)))["params"]


@partial(jax.jit, static_argnames=("unet", "size", "shown", "z_dim", "noised"))
def init_unet(unet: UNet, size: int, key: jax.Array, shown: bool, z_dim: int = 0, noised: bool = False) -> Any:
    """Return random parameters for images of `size` x `size` pixels.

    Args:
      shown: whether the network is shown x_hat.
      z_dim: the size of the z that the network takes; 0 if it takes none.
      noised: whether the network is told by how many steps x_hat is noised.
    """
    image = jnp.zeros((1, size, size, 3))
    z = jnp.zeros((1, z_dim)) if z_dim else None
    k = jnp.zeros(1) if noised else None
    return unet.init(key, image, jnp.zeros(1), image if shown else None, z, None, k)["params"]


def count(params: Any) -> int:
    """Return the number of parameters in a tree of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
