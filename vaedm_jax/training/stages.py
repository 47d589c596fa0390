"""The two stages: the network that each trains, and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vaedm_jax import models
from vaedm_jax.conditioning.conditions import has_vae, parse_condition
from vaedm_jax.diffusion.images import draw, fold, to_symmetric, to_unit
from vaedm_jax.diffusion.loss import consistency_loss, noise_loss, training_loss
from vaedm_jax.diffusion.prediction import TARGETS, Predictor, predictor
from vaedm_jax.diffusion.process import FORMULATIONS, augment, nearest_step
from vaedm_jax.diffusion.schedule import make_schedule
from vaedm_jax.models.vae import kl_divergence

Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Any, jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, Metrics]]
BINS = 4  # ranges of t, for each of which the held-out loss of the DDPM is reported


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      name: `vae` or `ddpm`, which is also its section of the configuration.
      settings: that section.
      init: key -> parameters.
      loss: (params, frozen, images uint8 [B, H, W, C], keys [B], step) -> (mean loss, means of other metrics). Image i
        uses keys[i]; `step` is the number of finished steps, or None if nothing is trained.
      held_out: (params, frozen, images, keys) -> metrics [B] of held-out images, with `loss` among them.
      frozen: parameters that the loss needs but does not train; empty for the VAE.
    """

    name: str
    settings: Any
    init: Callable[[jax.Array], Any]
    loss: Loss
    held_out: Callable[[Any, Any, jax.Array, jax.Array], Metrics]
    frozen: Any


def parameter_shapes(stage: Stage) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters by names with slashes, without computing them."""
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}


def vae_stage(config: Any) -> Stage:
    """Return stage 1. Its loss is the squared error summed over the pixels plus kl_weight KL, averaged over the batch.

    The weight rises to kl_weight over the first kl_warmup steps. For held-out images it is always kl_weight.
    """
    vae, kl_weight, warmup = models.build_vae(config), config.vae.kl_weight, config.vae.kl_warmup

    def terms(params, images, keys):
        x = to_unit(images)
        x_hat, _, mu, logvar = models.apply(vae, params, x, draw(keys, 0, (vae.z_dim,)), method="reconstruct")
        return {"squared_error": jnp.sum((x_hat - x) ** 2, axis=(1, 2, 3)), "kl": kl_divergence(mu, logvar)}

    def weighted(terms, weight):
        return terms["squared_error"] + weight * terms["kl"]

    def loss(params, frozen, images, keys, step):
        means = jax.tree.map(jnp.mean, terms(params, images, keys))
        rising = warmup and step is not None
        return weighted(means, kl_weight * jnp.minimum((step + 1) / warmup, 1) if rising else kl_weight), means

    def held_out(params, frozen, images, keys):
        found = terms(params, images, keys)
        return {"loss": weighted(found, kl_weight), **found}

    def init(key):
        return models.init_vae(vae, config.data.image_size, key)

    return Stage("vae", config.vae, init, loss, held_out, {})


def make_refiner(config: Any) -> Callable[[Any, Any, jax.Array, jax.Array, bool], Predictor]:
    """Return a function (params, frozen, x, keys [B], train) -> the refiner, as a `Predictor` for images x.

    The images x [B, H, W, C] lie in [0, 1]. The refiner is shown their x_hat and z.
    """
    ddpm = config.ddpm
    unet, form, target = models.build_unet(config), FORMULATIONS[ddpm.variant], TARGETS[ddpm.prediction](ddpm)
    vae, condition = models.build_vae(config) if has_vae(ddpm) else None, parse_condition(ddpm.condition)
    schedule = make_schedule(ddpm)

    def known(frozen, x, keys):
        """Return z and x_hat of images, x_hat in [-1, 1]; None for what the model does not have."""
        if condition:
            return None, to_symmetric(condition.shown(x, fold(keys, 0)))
        if not vae:
            return None, None
        x_hat, z, *_ = models.apply(vae, frozen, x, draw(keys, 0, (vae.z_dim,)), method="reconstruct")
        return z, to_symmetric(x_hat)

    def noised(keys, x_hat, train):
        """Return x_hat noised by k steps, and k, which is 0 for held-out images."""
        most = ddpm.cond_noise if train else 0
        k = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 5), (), 0, most + 1))(keys)
        return augment(schedule, x_hat, k, draw(keys, 6, x_hat.shape[1:])), k

    def refiner(params, frozen, x, keys, train):
        z, x_hat = known(frozen, x, keys)
        shown, k = noised(keys, x_hat, train) if ddpm.cond_noise else (None, None)
        z, blank = z if ddpm.z_conditioning else None, False
        if train and ddpm.cond_dropout:  # drawn for each image (arXiv 2207.12598, Algorithm 1)
            keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 4), 1 - ddpm.cond_dropout))(keys)
            blank = ~keep
            z, x_hat, shown, k = jax.tree.map(
                lambda c: jnp.where(keep.reshape(-1, *(1,) * (c.ndim - 1)), c, 0), (z, x_hat, shown, k)
            )
        masks = fold(keys, 3) if train else None

        def network(x_t, t, shown, z, k):
            return models.apply(unet, params, x_t, t, shown, z, masks, k)

        return predictor(target, form, network, x_hat, shown, blank, z=z, k=k)

    return refiner


def ddpm_stage(config: Any, vae_params: Any) -> Stage:
    """Return stage 2: Algorithm 1, for any target of the network.

    x_hat is decoded from a z that is drawn in each step, by the frozen VAE. With a `ddpm.condition`, x_hat is computed
    from the image instead (appendix D), and `vae_params` is empty.

    The held-out loss is the squared error of eps, for all targets, weights and distributions of t. Each image has one t
    in each of BINS equal ranges, drawn by its key. `loss_t0_249` to `loss_t750_999` are the means of the ranges, and
    `loss` is the mean of all. With an x_hat, `x_0_error_t0_249` and so on are the squared errors of the clean image,
    and `x_hat_error` is that of x_hat, all for images in [-1, 1].
    """
    ddpm, refiner, vae = config.ddpm, make_refiner(config), has_vae(config.ddpm)
    schedule = make_schedule(ddpm)
    min_snr = ddpm.min_snr if ddpm.weighting == "min_snr" else 0.0
    edges = np.unique(np.arange(BINS + 1) * ddpm.T // BINS)  # fewer ranges if T is below BINS

    def between(keys, low, high):
        """Draw t [B] from low up to but not including high."""
        return jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 1), (), low, high))(keys)

    def log_sigmas(keys, sigma):
        """Draw log sigma from a normal distribution about that of `About`."""
        return ddpm.t_mean + ddpm.t_deviation * draw(keys, 1, ()) + jnp.log(sigma).reshape(-1)

    def timesteps(keys, sigma):
        """Draw t by `ddpm.t_sampling`; sigma is that of `About`."""
        uniform = ddpm.t_sampling == "uniform"
        return between(keys, 0, ddpm.T) if uniform else nearest_step(schedule, log_sigmas(keys, sigma))

    def loss(params, frozen, images, keys, step):
        x = to_unit(images)
        predict = refiner(params, frozen, x, keys, step is not None)
        x_0, eps = to_symmetric(x), draw(keys, 2, x.shape[1:])
        if ddpm.objective == "consistency":
            sigma = jnp.exp(jnp.clip(log_sigmas(keys, predict.about.sigma), *-schedule.log_snr[[0, -1]]))
            return jnp.mean(consistency_loss(schedule, predict, x_0, sigma, eps, step // ddpm.doubling)), {}
        t = timesteps(keys, predict.about.sigma)
        return jnp.mean(training_loss(schedule, predict, x_0, t, eps, min_snr)), {}

    def held_out(params, frozen, images, keys):
        def of_range(ends):
            x = to_unit(images)
            predict = refiner(params, frozen, x, keys, False)
            x_0, t = to_symmetric(x), between(keys, *ends)
            losses = {"loss": noise_loss(schedule, predict, x_0, t, draw(keys, 2, x.shape[1:]))}
            if predict.x_hat is None:
                return losses, {}
            errors = {"x_0_error": losses["loss"] * jnp.exp(-2 * jnp.asarray(schedule.log_snr, x.dtype)[t])}
            return losses | errors, {"x_hat_error": jnp.mean((predict.x_hat - x_0) ** 2, axis=(1, 2, 3))}

        # One range after the other, to save memory.
        found, of_x_hat = jax.lax.map(of_range, (edges[:-1], edges[1:]))
        ranges = [f"t{low}_{high - 1}" for low, high in pairwise(edges)]
        by_t = {f"{name}_{of}": a for name, rows in found.items() for of, a in zip(ranges, rows, strict=True)}
        return {"loss": jnp.mean(found["loss"], axis=0), **by_t, **jax.tree.map(lambda rows: rows[0], of_x_hat)}

    def init(key):
        z_dim = models.build_vae(config).z_dim if ddpm.z_conditioning else 0
        shown, unet = FORMULATIONS[ddpm.variant].shown, models.build_unet(config)
        return models.init_unet(unet, config.data.image_size, key, shown, z_dim, ddpm.cond_noise > 0)

    return Stage("ddpm", ddpm, init, loss, held_out, vae_params if vae else {})
