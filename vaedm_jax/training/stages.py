"""The two stages: what each trains, and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vaedm_jax import models
from vaedm_jax.conditions import condition_of, has_vae
from vaedm_jax.diffusion.process import FORMULATIONS, noise_loss
from vaedm_jax.diffusion.schedule import schedule_of
from vaedm_jax.models.vae import kl_divergence

Figures = dict[str, jax.Array]
Loss = Callable[[Any, Any, jax.Array, jax.Array, bool], tuple[jax.Array, Figures]]
BINS = 4  # ranges of t that the loss of the DDPM is told apart by


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      name: `vae` or `ddpm`, which is also its section of the configuration.
      settings: that section.
      init: key -> parameters.
      loss: (params, frozen, images uint8 [B, H, W, C], keys [B], train) -> (mean loss, means of other figures). Image i
        uses keys[i].
      held_out: (params, frozen, images, keys) -> figures [B] of images that are not trained on, `loss` among them.
      frozen: parameters that the loss needs and does not train; empty for the VAE.
    """

    name: str
    settings: Any
    init: Callable[[jax.Array], Any]
    loss: Loss
    held_out: Callable[[Any, Any, jax.Array, jax.Array], Figures]
    frozen: Any


def parameter_shapes(stage: Stage) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a stage's network, by names with slashes, without computing any."""
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}


def fold(keys: jax.Array, i: int) -> jax.Array:
    """The i-th of the keys that follow from each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)


def draw(keys: jax.Array, i: int, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], the i-th draw of each key."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 images in [0, 1], which is what the VAE sees."""
    return images.astype(jnp.float32) / 255


def to_symmetric(x: jax.Array) -> jax.Array:
    """Images in [0, 1] in [-1, 1], which is what the DDPM sees."""
    return 2 * x - 1


def vae_stage(config: Any) -> Stage:
    """Stage 1: squared error summed over the pixels plus kl_weight times KL, averaged over the batch."""
    vae = models.build_vae(config)

    def terms(params, images, keys):
        x = to_unit(images)
        x_hat, _, mu, logvar = models.apply(vae, params, x, draw(keys, 0, (vae.z_dim,)), method="reconstruct")
        return {"squared_error": jnp.sum((x_hat - x) ** 2, axis=(1, 2, 3)), "kl": kl_divergence(mu, logvar)}

    def weighted(terms):
        return terms["squared_error"] + config.vae.kl_weight * terms["kl"]

    def loss(params, frozen, images, keys, train):
        means = jax.tree.map(jnp.mean, terms(params, images, keys))
        return weighted(means), means

    def held_out(params, frozen, images, keys):
        found = terms(params, images, keys)
        return {"loss": weighted(found), **found}

    def init(key):
        return models.init_vae(vae, config.data.image_size, key)

    return Stage("vae", config.vae, init, loss, held_out, {})


def ddpm_stage(config: Any, vae_params: Any) -> Stage:
    """Stage 2, Algorithm 1: the error of the predicted noise, with x_hat decoded from a fresh z under the frozen VAE.

    Where `ddpm.condition` says so, x_hat is what is left of the image (appendix D), and `vae_params` is empty.
    Each held-out image is looked at once in each of BINS equal ranges of t, at a t that its key draws there:
    `loss_t0_249` to `loss_t750_999` are the ranges' means, `loss` that of all.
    """
    ddpm = config.ddpm
    unet, form = models.build_unet(config), FORMULATIONS[ddpm.variant]
    vae, condition = models.build_vae(config) if has_vae(ddpm) else None, condition_of(ddpm.condition)
    schedule = schedule_of(ddpm)
    z_dim = vae.z_dim if ddpm.z_conditioning else 0

    def known(frozen, x, keys):
        if condition:
            return None, to_symmetric(condition.shown(x, fold(keys, 0)))
        if not vae:
            return None, None
        x_hat, z, *_ = models.apply(vae, frozen, x, draw(keys, 0, (vae.z_dim,)), method="reconstruct")
        return z, to_symmetric(x_hat)

    def blank(keys, conditions):
        """Each image by itself keeps its conditions, or has zeros in their place (arXiv 2207.12598, Algorithm 1)."""
        keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 4), 1 - ddpm.cond_dropout))(keys)
        return jax.tree.map(lambda c: jnp.where(keep.reshape(-1, *(1,) * (c.ndim - 1)), c, 0), conditions)

    def timesteps(keys, low, high):
        return jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 1), (), low, high))(keys)

    def errors(params, frozen, images, keys, t, train):
        x = to_unit(images)
        z, x_hat = known(frozen, x, keys)
        if train and ddpm.cond_dropout:
            z, x_hat = blank(keys, (z, x_hat))
        masks = fold(keys, 3) if train else None

        def network(x_t, t, x_hat, z):
            return models.apply(unet, params, x_t, t, x_hat, z, masks)

        predict_noise = form.predict_noise(network, x_hat, z=z if z_dim else None)
        return noise_loss(schedule, predict_noise, to_symmetric(x), t, draw(keys, 2, x.shape[1:]))

    def loss(params, frozen, images, keys, train):
        return jnp.mean(errors(params, frozen, images, keys, timesteps(keys, 0, ddpm.T), train)), {}

    def held_out(params, frozen, images, keys):
        edges = np.unique(np.arange(BINS + 1) * ddpm.T // BINS)  # a T below BINS has fewer

        def of_range(ends):
            return errors(params, frozen, images, keys, timesteps(keys, *ends), False)

        losses = jax.lax.map(of_range, (edges[:-1], edges[1:]))  # one after the other, for the memory
        names = [f"loss_t{low}_{high - 1}" for low, high in pairwise(edges)]
        return {"loss": jnp.mean(losses, axis=0), **dict(zip(names, losses, strict=True))}

    def init(key):
        return models.init_unet(unet, config.data.image_size, key, form.shown, z_dim)

    return Stage("ddpm", ddpm, init, loss, held_out, vae_params if vae else {})
