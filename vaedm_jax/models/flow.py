"""A normalising flow of z: affine couplings (RealNVP, arXiv 1605.08803) upon a Gaussian.

Parameters, for L layers of H hidden units: `w_in` [L, D, H], `b_in` [L, H], `w_out` [L, H, 2 D], `b_out` [L, 2 D], and
those of the Gaussian: `mean` [D], and `factor` [D, D], which is lower triangular.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LAYERS, HIDDEN = 6, 128
Params = Mapping[str, jax.Array]
FORM = {"w_in": ("L", "D", "H"), "b_in": ("L", "H"), "w_out": ("L", "H", "2D"), "b_out": ("L", "2D")}
FORM |= {"mean": ("D",), "factor": ("D", "D")}


def init_flow(key: jax.Array, mean: jax.Array, factor: jax.Array) -> dict[str, jax.Array]:
    """A flow that is the Gaussian yet."""
    D = len(mean)
    return {
        "w_in": jax.random.normal(key, (LAYERS, D, HIDDEN)) / jnp.sqrt(D),
        "b_in": jnp.zeros((LAYERS, HIDDEN)),
        "w_out": jnp.zeros((LAYERS, HIDDEN, 2 * D)),
        "b_out": jnp.zeros((LAYERS, 2 * D)),
        "mean": jnp.asarray(mean),
        "factor": jnp.asarray(factor),
    }


def layers(params: Params) -> dict[str, jax.Array]:
    """What each layer has, with the half of the numbers that it looks at and leaves."""
    L, D = params["w_in"].shape[:2]
    seen = (jnp.arange(D).reshape(1, D) + jnp.arange(L).reshape(L, 1)) % 2
    return {name: params[name] for name in ("w_in", "b_in", "w_out", "b_out")} | {"seen": seen.astype(jnp.float32)}


def change(layer: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logarithm of the scale, and the shift, [D] each, that x [D] tells a layer; zero for what it looks at."""
    h = jax.nn.silu((layer["seen"] * x) @ layer["w_in"] + layer["b_in"])
    log_scale, shift = jnp.split(h @ layer["w_out"] + layer["b_out"], 2)
    return (1 - layer["seen"]) * jnp.tanh(log_scale), (1 - layer["seen"]) * shift


def forward(params: Params, noise: jax.Array) -> jax.Array:
    """z [D] of noise [D]."""

    def step(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        log_scale, shift = change(layer, x)
        return x * jnp.exp(log_scale) + shift, None

    return params["mean"] + params["factor"] @ jax.lax.scan(step, noise, layers(params))[0]


def log_density(params: Params, z: jax.Array) -> jax.Array:
    """The log density of z [D] in nats."""

    def step(x: jax.Array, layer: Params) -> tuple[jax.Array, jax.Array]:
        log_scale, shift = change(layer, x)
        return (x - shift) * jnp.exp(-log_scale), jnp.sum(log_scale)

    x = jax.scipy.linalg.solve_triangular(params["factor"], z - params["mean"], lower=True)
    x, log_scales = jax.lax.scan(step, x, layers(params), reverse=True)
    size = jnp.sum(log_scales) + jnp.sum(jnp.log(jnp.diagonal(params["factor"])))
    return jnp.sum(jax.scipy.stats.norm.logpdf(x)) - size
