"""A normalising flow of z: affine coupling layers (RealNVP, arXiv 1605.08803), then an affine map.

L coupling layers with H hidden units have the parameters `w_in` [L, D, H], `b_in` [L, H], `w_out` [L, H, 2 D], `b_out`
[L, 2 D]. The affine map has `mean` [D] and `factor` [D, D], which is lower triangular.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LAYERS, HIDDEN = 6, 128
Params = Mapping[str, jax.Array]
FORM = {"w_in": ("L", "D", "H"), "b_in": ("L", "H"), "w_out": ("L", "H", "2D"), "b_out": ("L", "2D")}
FORM |= {"mean": ("D",), "factor": ("D", "D")}


def init_flow(key: jax.Array, mean: jax.Array, factor: jax.Array) -> dict[str, jax.Array]:
    """Return the parameters of a flow with the density N(mean, factor factor^T). Its coupling layers do nothing yet."""
    D = len(mean)
    return {
        "w_in": jax.random.normal(key, (LAYERS, D, HIDDEN)) / jnp.sqrt(D),
        "b_in": jnp.zeros((LAYERS, HIDDEN)),
        "w_out": jnp.zeros((LAYERS, HIDDEN, 2 * D)),
        "b_out": jnp.zeros((LAYERS, 2 * D)),
        "mean": jnp.asarray(mean),
        "factor": jnp.asarray(factor),
    }


def layer_params(params: Params) -> dict[str, jax.Array]:
    """Return the parameters of the coupling layers, and `seen` [L, D], which is 1 for the inputs that a layer reads.

    A layer leaves these inputs unchanged. Layers read in turn the odd and the even inputs.
    """
    L, D = params["w_in"].shape[:2]
    seen = (jnp.arange(D).reshape(1, D) + jnp.arange(L).reshape(L, 1)) % 2
    return {name: params[name] for name in ("w_in", "b_in", "w_out", "b_out")} | {"seen": seen.astype(jnp.float32)}


def scale_and_shift(layer: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the log-scale and the shift of a layer for x [D]: [D] each, 0 for the inputs that the layer reads."""
    h = jax.nn.silu((layer["seen"] * x) @ layer["w_in"] + layer["b_in"])
    log_scale, shift = jnp.split(h @ layer["w_out"] + layer["b_out"], 2)
    return (1 - layer["seen"]) * jnp.tanh(log_scale), (1 - layer["seen"]) * shift


def forward(params: Params, noise: jax.Array) -> jax.Array:
    """Map standard normal noise [D] to z [D]."""

    def step(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        log_scale, shift = scale_and_shift(layer, x)
        return x * jnp.exp(log_scale) + shift, None

    return params["mean"] + params["factor"] @ jax.lax.scan(step, noise, layer_params(params))[0]


def log_density(params: Params, z: jax.Array) -> jax.Array:
    """Return the log density of z [D], in nats."""

    def step(x: jax.Array, layer: Params) -> tuple[jax.Array, jax.Array]:
        log_scale, shift = scale_and_shift(layer, x)
        return (x - shift) * jnp.exp(-log_scale), jnp.sum(log_scale)

    x = jax.scipy.linalg.solve_triangular(params["factor"], z - params["mean"], lower=True)
    x, log_scales = jax.lax.scan(step, x, layer_params(params), reverse=True)
    size = jnp.sum(log_scales) + jnp.sum(jnp.log(jnp.diagonal(params["factor"])))
    return jnp.sum(jax.scipy.stats.norm.logpdf(x)) - size
