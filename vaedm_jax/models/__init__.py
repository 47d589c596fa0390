"""The two networks, and the one place that builds them from a configuration."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp

from vaedm_jax.errors import UserError
from vaedm_jax.models.blocks import check_blocks, check_ladder
from vaedm_jax.models.unet import UNet
from vaedm_jax.models.vae import VAE


def build_vae(config: Any) -> VAE:
    """The VAE of a whole configuration. Raises UserError where its block strings do not fit the images."""
    size, vae = config.data.image_size, config.vae
    for name, *ends in (("enc_block", size, 1), ("dec_block", 1, size)):
        try:
            check_blocks(vae[name], vae.channels, *ends)
            if name == "dec_block":
                check_ladder(vae.enc_block, vae.dec_block)
        except UserError as error:
            raise UserError(f"vae.{name}, vae.channels: {error}") from error
    return VAE(**chosen(VAE, vae))


def build_unet(config: Any) -> UNet:
    """The U-Net of a whole configuration. Raises UserError where its levels do not fit the images."""
    size, ddpm = config.data.image_size, config.ddpm
    factor = ddpm.patch * 2 ** (len(ddpm.multipliers) - 1)
    if size % factor:
        raise UserError(
            f"data.image_size = {size}: a U-Net of {len(ddpm.multipliers)} levels on patches of {ddpm.patch} needs a "
            f"multiple of {factor}"
        )
    for number in ddpm.attention:
        if number & (number - 1):
            raise UserError(
                f"ddpm.attention = {tuple(ddpm.attention)}: no level is at 1 / {number} of the size; 2, 4, 8 ..."
            )
    for width in {ddpm.channels * m for m in (1, *ddpm.multipliers)}:
        if width % 32 or width % ddpm.heads:
            raise UserError(
                f"ddpm.channels, ddpm.multipliers: a width of {width} must be divisible by its 32 norm groups and by "
                f"ddpm.heads = {ddpm.heads}"
            )
    return UNet(**chosen(UNet, ddpm))


# Fields of a network that say how it is computed or trained, not what it is.
COMPUTATION = ("precision", "remat", "packed", "dropout")


def chosen(network: type[VAE] | type[UNet], section: Any) -> dict[str, Any]:
    """Return the settings of a section of the configuration that are fields of a network."""
    values = {field.name: section[field.name] for field in fields(network) if field.name in section}
    return {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in values.items()}


def apply(network: VAE | UNet, params: Any, *inputs: Any, **how: Any) -> Any:
    """network(*inputs) with its parameters cast to its precision; what comes out is in float32 at least.

    Statistics of normalisations, the softmax of attention and the embedding of t are in float32 as well.
    """
    cast = jax.tree.map(lambda a: a.astype(network.precision), params)
    return network.apply({"params": cast}, *inputs, **how)


def init_vae(vae: VAE, size: int, key: jax.Array) -> Any:
    """Random parameters for images of `size` pixels."""
    return vae.init(key, jnp.zeros((1, size, size, vae.image_channels)))["params"]


def init_unet(unet: UNet, size: int, key: jax.Array, shown: bool, z_dim: int = 0, noised: bool = False) -> Any:
    """Return random parameters.

    Args:
      shown: the network is shown x_hat. noised: it is told by how much. z_dim: size of the z that it takes, 0 for none.
    """
    image = jnp.zeros((1, size, size, 3))
    z = jnp.zeros((1, z_dim)) if z_dim else None
    k = jnp.zeros(1) if noised else None
    return unet.init(key, image, jnp.zeros(1), image if shown else None, z, None, k)["params"]


def count(params: Any) -> int:
    """Number of parameters, of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
