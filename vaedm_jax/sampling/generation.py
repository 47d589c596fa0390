"""The compiled functions of a model: from seeds and inputs to latents, images and bounds."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax import models
from vaedm_jax.diffusion.bound import chain_terms
from vaedm_jax.diffusion.chain import ChainArrays, run_chain
from vaedm_jax.diffusion.images import condition_keys, draw, fold, sample_keys, to_symmetric, to_unit
from vaedm_jax.diffusion.prediction import Estimate
from vaedm_jax.diffusion.process import Level
from vaedm_jax.models.prior import divergence
from vaedm_jax.models.prior import draw as draw_z
from vaedm_jax.sampling.networks import Networks


class Given(NamedTuple):
    """Inputs that replace what is drawn at random; None if they are not given.

    Attributes:
      z: [B, D]; by default it is drawn from the prior, or encoded from x_hat if that is given.
      x_hat: [B, H, W, C] in [0, 1], shown to the refiner instead of decoded z; a model without a VAE needs it.
      x_T: [B, H, W, C], the noise that the chain starts from; a warm start noises x_hat with it.
      begin: [B, H, W, C] in [0, 1], the image that a warm start noises instead of x_hat.
    """

    z: Any = None
    x_hat: Any = None
    x_T: Any = None
    begin: Any = None


NOTHING = Given()


class Bound(NamedTuple):
    """-log p(x_0) <= z + prior + sum of steps + decoder of N images, in bits per dimension (docs/samplers.md).

    Attributes:
      z: [N], KL(q(z | x_0) || p(z)). It is exact for a prior N(0, I), else estimated without bias from one z. It is 0
        without a VAE: what a condition leaves of the image counts as given.
      prior, decoder: [N]; steps: [T - 1, N]; see `bound.Terms`.
      condition: [N], -log p(y | z) of y = x_0 in 256 levels, of variance 1/2, since the VAE was trained with a summed
        squared error. Eq. 3 bounds the joint (x_0, y) by all five terms, and so counts the image twice.
    """

    z: np.ndarray
    prior: np.ndarray
    steps: np.ndarray
    decoder: np.ndarray
    condition: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The bound on -log p(x_0), [N]."""
        return self.z + self.prior + self.steps.sum(axis=0) + self.decoder


@partial(jax.jit, static_argnums=0)
def draw_prior(
    networks: Networks, params: Any, seed: jax.Array, indices: jax.Array, temperature: jax.Array
) -> jax.Array:
    """Draw z [B, D] of a seed from the prior, by index [B]."""
    return draw_z(params["prior"], fold(sample_keys(seed, indices), 0), networks.vae.z_dim, temperature)


@partial(jax.jit, static_argnums=0)
def encode(networks: Networks, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mu and logvar [B, D] of q(z | x), x [B, H, W, C] in [0, 1]."""
    return models.apply(networks.vae, params["vae"], x, method="encode")


@partial(jax.jit, static_argnums=0)
def posterior(networks: Networks, params: Any, x: jax.Array, seed: jax.Array, indices: jax.Array) -> jax.Array:
    """Draw z [B, D] from q(z | x), x [B, H, W, C] in [0, 1], by index [B]."""
    return posteriors(networks, params, x, seed, indices[:, None])[:, 0]


@partial(jax.jit, static_argnums=0)
def posteriors(networks: Networks, params: Any, x: jax.Array, seed: jax.Array, indices: jax.Array) -> jax.Array:
    """Draw several z of each image, [B, K, D], by index [B, K]. Each image is encoded once."""
    noise = draw(sample_keys(seed, indices.ravel()), 0, (networks.vae.z_dim,)).reshape(*indices.shape, -1)

    def z(noise: jax.Array) -> jax.Array:
        return models.apply(networks.vae, params["vae"], x, noise, method="reconstruct")[1]

    return jax.vmap(z, in_axes=1, out_axes=1)(noise)


@partial(jax.jit, static_argnums=0)
def decode(networks: Networks, params: Any, z: jax.Array) -> jax.Array:
    """Return x_hat [B, H, W, C] in [0, 1] of z [B, D]."""
    return models.apply(networks.vae, params["vae"], z, method="decode")


@partial(jax.jit, static_argnums=0)
def shown_x_hat(networks: Networks, params: Any, x: jax.Array, seed: jax.Array, indices: jax.Array) -> jax.Array:
    """Return x_hat of images x [B, H, W, C] in [0, 1]: reconstructions, or what the condition leaves of them."""
    if networks.condition:
        return networks.condition.shown(x, condition_keys(seed, indices))
    return decode(networks, params, encode(networks, params, x)[0])


def mark_infinite(x: jax.Array) -> jax.Array:
    """Replace infinity by NaN: clipping would make it a pixel that looks like any other."""
    return jnp.where(jnp.isfinite(x), x, jnp.nan)


@partial(jax.jit, static_argnums=0)
def generate(
    networks: Networks, chain: ChainArrays, params: Any, seed: jax.Array, indices: jax.Array, given: Given = NOTHING
) -> tuple[jax.Array, jax.Array | None]:
    """Return the images of a seed by index [B], and their x_hat.

    Unless they are given, z is drawn from the prior and x_hat is decoded from z.
    """
    z, x_hat, x_T, begin = given
    shown = None
    if networks.has_x_hat:
        if z is None and x_hat is None:
            z = draw_prior(networks, params, seed, indices, chain.z_temperature)
        elif z is None and networks.z_conditioning:
            z = encode(networks, params, x_hat)[0]
        x_hat = decode(networks, params, z) if x_hat is None else x_hat
        shown = to_symmetric(x_hat)
    keys = sample_keys(seed, jnp.where(chain.shared, 0, indices))
    network = networks.predict(params, keys, shown, z, chain.guidance, chain.cond_noise)

    def predict(u_t: jax.Array, level: Level) -> Estimate:
        return jax.tree.map(mark_infinite, network(u_t, level))

    shape = networks.shape if shown is None else shown.shape[1:]
    u_0 = run_chain(chain, predict, fold(keys, 1), shape, shown if begin is None else to_symmetric(begin), x_T)
    return jnp.clip((mark_infinite(u_0) + 1) / 2, 0, 1), x_hat


@partial(jax.jit, static_argnums=(0, 1, 2))
def bound_terms(
    networks: Networks,
    variance: str,
    clip: bool,
    cond_noise: jax.Array,
    params: Any,
    images: jax.Array,
    indices: jax.Array,
    seed: jax.Array,
) -> Bound:
    """Return the bound of images, uint8 [B, H, W, C], by index [B].

    Args:
      variance, clip, cond_noise: of the reverse steps; see `Chain`.
    """
    keys, x = sample_keys(seed, indices), to_unit(images)
    z = x_hat = None
    kl = error = jnp.zeros(len(x))
    if networks.condition:
        x_hat = to_symmetric(networks.condition.shown(x, condition_keys(seed, indices)))
    elif networks.vae:
        noise = draw(keys, 0, (networks.vae.z_dim,))
        decoded, z, mu, logvar = models.apply(networks.vae, params["vae"], x, noise, method="reconstruct")
        x_hat, kl = to_symmetric(decoded), divergence(params["prior"], z, mu, logvar)
        error = jnp.sum((decoded - x) ** 2, axis=(1, 2, 3)) + x[0].size * np.log(255 * np.sqrt(np.pi))
    predict = networks.predict(params, keys, x_hat, z, cond_noise=cond_noise)
    terms = chain_terms(networks.full_schedule, predict, to_symmetric(x), fold(keys, 1), variance, clip)
    bits = x[0].size * np.log(2)
    return Bound(*(term / bits for term in (kl, *terms, error)))
