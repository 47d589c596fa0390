"""Priors of z: the standard normal, which the VAE is trained with, a mixture of Gaussians, or a flow.

A mixture of K components has the parameters `logits` [K] of the weights, `means` [K, D] and `factors` [K, D, D].
Component k is means[k] + factors[k] N(0, I); factors are lower triangular. `models.flow` describes the parameters of a
flow. The standard normal has none.

A mixture or a flow may cover only D of the Z latents: `used` [Z] is 1 for these and 0 for the others, which are N(0, 1)
and independent. Without `used` it covers all of them.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from vaedm_jax.models import flow
from vaedm_jax.models.vae import kl_divergence

Params = Mapping[str, jax.Array]
MIXTURE = {"logits": ("K",), "means": ("K", "D"), "factors": ("K", "D", "D")}
USED = {"used": ("Z",)}
FORMS = (MIXTURE, flow.FORM, USED)  # the arrays that a prior may have, with their shapes in letters


def expected(shapes: Mapping[str, tuple[int, ...]], Z: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the arrays of a prior of z [Z] must have.

    Args:
      shapes: the shapes that they have. The numbers of latents, components, layers and hidden units are taken from
        these.
    """
    form, centre = (flow.FORM, "mean") if "w_in" in shapes else (MIXTURE, "means")
    D = Z
    if "used" in shapes:
        form, D = form | USED, min([Z, *shapes.get(centre, ())[-1:]])
    sizes = {"Z": Z, "D": D, "2D": 2 * D}
    for name, letters in form.items():
        for letter, side in zip(letters, shapes.get(name, ()), strict=False):
            sizes.setdefault(letter, side)
    return {name: tuple(sizes.get(letter, 1) for letter in letters) for name, letters in form.items()}


def split(params: Params, D: int) -> tuple[jax.Array, jax.Array]:
    """Return the indices of the latents that a mixture or a flow covers, and those of the others, out of D."""
    size = params["mean" if "w_in" in params else "means"].shape[-1]
    order = jnp.argsort(-params["used"], stable=True) if "used" in params else jnp.arange(D)
    return order[:size], order[size:]


def draw(params: Params, keys: jax.Array, D: int, temperature: float = 1.0) -> jax.Array:
    """Draw one z from the prior for each key: [B, D].

    Args:
      keys: [B].
      temperature: multiplies the standard deviation; for a mixture, the deviations of its components.
    """
    noise = temperature * jax.vmap(lambda key: jax.random.normal(key, (D,)))(keys)
    if not params:
        return noise
    used, _ = split(params, D)
    if "w_in" in params:
        return noise.at[:, used].set(jax.vmap(partial(flow.forward, params))(noise[:, used]))
    k = jax.vmap(lambda key: jax.random.categorical(jax.random.fold_in(key, 1), params["logits"]))(keys)
    z = params["means"][k] + jnp.einsum("bij,bj->bi", params["factors"][k], noise[:, used])
    return noise.at[:, used].set(z)


def divergence(params: Params, z: jax.Array, mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """Return KL(q(z | x) || p(z)) of each image, in nats: [B]. For a mixture or a flow it is an unbiased estimate.

    It is the sum of KL(q || N(0, I)), which has a closed form, and of the mean of log N(z; 0, I) - log p(z) over q. The
    second term is estimated from one z.

    Args:
      z: [B, D], drawn from q = N(mu, exp logvar).
      mu, logvar: [B, D]. In a ladder VAE those of a layer depend on the z of the layers before it.
    """
    closed = kl_divergence(mu, logvar)
    return closed + log_prob({}, z) - log_prob(params, z) if params else closed


def log_prob(params: Params, z: jax.Array) -> jax.Array:
    """Return the log density of z [B, D] in nats: [B]."""
    if not params:
        return jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=-1)
    used, others = split(params, z.shape[-1])
    density = jax.vmap(partial(flow.log_density, params)) if "w_in" in params else partial(mixture, params)
    return density(z[:, used]) + log_prob({}, z[:, others])


def mixture(params: Params, z: jax.Array) -> jax.Array:
    """Return the log density of z [B, D] under a mixture of Gaussians, in nats: [B]."""
    D = z.shape[-1]

    def component(logit: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
        white = jax.scipy.linalg.solve_triangular(factor, (z - mean.reshape(1, -1)).T, lower=True)
        size = jnp.sum(jnp.log(jnp.diagonal(factor))) + D / 2 * jnp.log(2 * jnp.pi)
        return logit - size - 0.5 * jnp.sum(white**2, axis=0)

    logits = jax.nn.log_softmax(params["logits"])
    return jax.nn.logsumexp(jax.vmap(component)(logits, params["means"], params["factors"]), axis=0)
