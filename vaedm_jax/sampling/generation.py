"""The compiled functions behind `VAEDM`: from a seed, and what is given, to images and bounds."""

from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax import models
from vaedm_jax.conditioning.conditions import Condition, condition_of, has_vae
from vaedm_jax.diffusion.bound import chain_terms
from vaedm_jax.diffusion.chain import ChainArrays, run_chain
from vaedm_jax.diffusion.images import condition_keys, draw, fold, sample_keys, to_symmetric, to_unit
from vaedm_jax.diffusion.prediction import TARGETS, Eps, Estimate, Predict, Target, from_eps, predictor
from vaedm_jax.diffusion.process import FORMULATIONS, Formulation, Level, augment
from vaedm_jax.diffusion.schedule import Schedule, betas_of, linear_schedule
from vaedm_jax.models.prior import divergence
from vaedm_jax.models.prior import draw as draw_z


class Given(NamedTuple):
    """What images are made from in place of what their keys would draw; None where it is not given.

    Attributes:
      z: [B, D]; without it, it is drawn from the prior, or encoded from x_hat where that is given.
      x_hat: [B, H, W, C] in [0, 1], shown to the refiner in place of what z decodes to; without a VAE it must be given.
      x_T: [B, H, W, C], the noise that the chain begins with; a warm start noises x_hat with it.
    """

    z: Any = None
    x_hat: Any = None
    x_T: Any = None


NOTHING = Given()


class Bound(NamedTuple):
    """-log p(x_0) <= z + prior + sum of steps + decoder of N images, in bits per dimension (docs/samplers.md).

    Attributes:
      z: [N], KL(q(z | x_0) || p(z)): exact where p is N(0, I), else estimated without bias by the z that is drawn. 0
        without a VAE: what a condition leaves of the image is given then, at no cost.
      prior, decoder: [N]; steps: [T - 1, N]; see `bound.Terms`.
      condition: [N], -log p(y | z) of y = x_0 in 256 levels, of variance 1/2: the VAE was trained by a summed squared
        error. Eq. 3 bounds the joint (x_0, y) by all five, and so counts the image twice.
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


# Fields of a network that leave its images as they are: how it is computed, how it was trained, and Flax's own.
WITHOUT_EFFECT = (*(name for name in models.COMPUTATION if name != "precision"), "parent", "name")


def meaning(part: Any) -> Any:
    """Return what images depend on of a network or of another part of `Networks`, as JSON can hold it.

    Of a network these are the settings that are not its defaults, so the result stays when it gets a new one.
    """
    if not is_dataclass(part):
        return part
    settings = {f.name: getattr(part, f.name) for f in fields(part) if getattr(part, f.name) != f.default}
    return {"kind": type(part).__name__} | {k: v for k, v in settings.items() if k not in WITHOUT_EFFECT}


class Networks(NamedTuple):
    """What a compiled program depends on, hashable."""

    vae: models.VAE | None
    condition: Condition | None
    unet: models.UNet
    variant: str
    betas: tuple[int, float, float]
    z_conditioning: bool
    size: int
    target: Target = Eps()
    cond_noise: int = 0

    @property
    def meaning(self) -> dict[str, Any]:
        """What images depend on, as JSON can hold it; see `meaning`. Fields with a default count where they differ."""
        usual = self._field_defaults
        found = {n: meaning(part) for n, part in self._asdict().items() if n not in usual or part != usual[n]}
        # On a CPU products of float32 are in float32, whatever is asked for.
        precision = None if jax.default_backend() == "cpu" else jax.config.jax_default_matmul_precision
        return found | ({"matmul_precision": precision} if precision else {})

    @property
    def form(self) -> Formulation:
        return FORMULATIONS[self.variant]

    @property
    def has_x_hat(self) -> bool:
        """Whether there is an image that the refiner begins at, or is shown."""
        return bool(self.vae or self.condition)

    @property
    def full_schedule(self) -> Schedule:
        return linear_schedule(*self.betas)

    @property
    def multiple(self) -> int:
        """What the sides of an image must be a multiple of, for the U-Net."""
        return self.unet.patch * 2 ** (len(self.unet.multipliers) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.size, self.size, 3

    def predict(
        self,
        params: Any,
        keys: jax.Array,
        x_hat: jax.Array | None,
        z: jax.Array | None,
        guidance: Any = None,
        cond_noise: Any = 0,
    ) -> Predict:
        """The refiner as a function of u_t and its level; x_hat in [-1, 1].

        Args:
          keys: [B], of the noise of x_hat.
          guidance: w of eps <- (1 + w) eps(u_t, x_hat, z) - w eps(u_t, 0, 0) (arXiv 2207.12598, eq. 6), for a refiner
            that was trained with `ddpm.cond_dropout`; takes two evaluations of the network.
          cond_noise: steps by which what the network is shown of x_hat is noised, for one that was trained with
            `ddpm.cond_noise`.
        """

        def network(x_t, t, shown, z, k):
            return models.apply(self.unet, params["ddpm"], x_t, t, shown, z, None, k)

        z, shown, k = z if self.z_conditioning else None, None, None
        if self.cond_noise:
            k = jnp.full(len(x_hat), cond_noise)
            shown = augment(self.full_schedule, x_hat, k, draw(keys, 3, x_hat.shape[1:]))
        knowing = predictor(self.target, self.form, network, x_hat, shown, z=z, k=k)
        if guidance is None:
            return knowing
        x_hat, shown, z, k = jax.tree.map(jnp.zeros_like, (x_hat, shown, z, k))
        blind = predictor(self.target, self.form, network, x_hat, shown, True, z=z, k=k)

        def guided(u, level):
            eps = (1 + guidance) * knowing(u, level).eps - guidance * blind(u, level).eps
            return from_eps(u, level, eps)

        return guided


def networks_of(config: Any) -> Networks:
    """The networks of a whole configuration."""
    return Networks(
        models.build_vae(config) if has_vae(config.ddpm) else None,
        condition_of(config.ddpm.condition),
        models.build_unet(config),
        config.ddpm.variant,
        betas_of(config.ddpm),
        config.ddpm.z_conditioning,
        config.data.image_size,
        TARGETS[config.ddpm.prediction](config.ddpm),
        config.ddpm.cond_noise,
    )


def prior(networks: Networks, params: Any, keys: jax.Array, temperature: float = 1.0) -> jax.Array:
    """z of every sample from the prior, [B, D]; see `models.prior`."""
    return draw_z(params["prior"], fold(keys, 0), networks.vae.z_dim, temperature)


@partial(jax.jit, static_argnums=0)
def encode(networks: Networks, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """mu and logvar [B, D] of q(z | x), x [B, H, W, C] in [0, 1]."""
    return models.apply(networks.vae, params["vae"], x, method="encode")


@partial(jax.jit, static_argnums=0)
def posterior(networks: Networks, params: Any, x: jax.Array, seed: jax.Array, indices: jax.Array) -> jax.Array:
    """z [B, D] of q(z | x), x [B, H, W, C] in [0, 1], by index [B]."""
    noise = draw(sample_keys(seed, indices), 0, (networks.vae.z_dim,))
    return models.apply(networks.vae, params["vae"], x, noise, method="reconstruct")[1]


@partial(jax.jit, static_argnums=0)
def decode(networks: Networks, params: Any, z: jax.Array) -> jax.Array:
    """x_hat [B, H, W, C] in [0, 1] of z [B, D]."""
    return models.apply(networks.vae, params["vae"], z, method="decode")


@partial(jax.jit, static_argnums=0)
def shown_of(networks: Networks, params: Any, x: jax.Array, seed: jax.Array, indices: jax.Array) -> jax.Array:
    """x_hat of images x [B, H, W, C] in [0, 1]: the VAE's reconstructions, or what the condition leaves of them."""
    if networks.condition:
        return networks.condition.shown(x, condition_keys(seed, indices))
    return decode(networks, params, encode(networks, params, x)[0])


def z_of(networks: Networks, params: Any, x_hat: jax.Array) -> jax.Array | None:
    """The z of an image in place of x_hat, where the refiner takes one; the VAE has one size, the U-Net any."""
    return encode(networks, params, x_hat)[0] if networks.z_conditioning else None


def marked(x: jax.Array) -> jax.Array:
    """Return x with NaN in place of infinity, which would be clipped to a pixel that looks like any other."""
    return jnp.where(jnp.isfinite(x), x, jnp.nan)


@partial(jax.jit, static_argnums=0)
def generate(
    networks: Networks, chain: ChainArrays, params: Any, seed: jax.Array, indices: jax.Array, given: Given = NOTHING
) -> tuple[jax.Array, jax.Array | None]:
    """Return the images of a seed by index [B], and their x_hat.

    Where they are not given, z is drawn from the prior and x_hat decoded from z.
    """
    keys = sample_keys(seed, indices)
    z, x_hat, x_T = given
    shown = None
    if networks.has_x_hat:
        if z is None and networks.vae:
            z = prior(networks, params, keys, chain.z_temperature) if x_hat is None else z_of(networks, params, x_hat)
        x_hat = decode(networks, params, z) if x_hat is None else x_hat
        shown = to_symmetric(x_hat)
    of_noise = sample_keys(seed, jnp.where(chain.shared, 0, indices))
    network = networks.predict(params, of_noise, shown, z, chain.guidance, chain.cond_noise)

    def predict(u_t: jax.Array, level: Level) -> Estimate:
        return jax.tree.map(marked, network(u_t, level))

    shape = networks.shape if shown is None else shown.shape[1:]
    u_0 = run_chain(chain, predict, fold(of_noise, 1), shape, shown, x_T)
    return jnp.clip((marked(u_0) + 1) / 2, 0, 1), x_hat


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
