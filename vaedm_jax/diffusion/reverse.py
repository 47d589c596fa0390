"""Reverse chains (Algorithm 2): a sampler is a table of coefficients, and one `lax.scan` runs all of them.

Each row of a table is one evaluation of the network at u, which gives eps and the clean image x_0 (`prediction.py`):

    base <- p u + q base + sum_k r_k x_0[k]
    u    <- a base + sum_k b_k x_0[k] + sum_k c_k eps[k] + sigma noise

where [k] is the estimate of k evaluations ago. Most samplers do not need the first line: base is u. Two go back.
Heun's second evaluation repeats the step of the first. UniPC's corrector repeats the step that led to u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.images import draw
from vaedm_jax.diffusion.prediction import Predict
from vaedm_jax.diffusion.process import Level


class Table(NamedTuple):
    """The coefficients of a sampler, a row for each evaluation, in the order of execution; float64 on the host.

    All columns are arrays [N], but r, b and c are [N, K]. Columns without effect may be None; see `trimmed`.

    Attributes:
      t, sqrt_alpha_bar, sqrt_one_minus_alpha_bar: the noise level of u; see `process.Level`.
      follow: 1 where eps is computed from the clipped x_0, 0 where it is used as predicted.
    """

    t: np.ndarray
    sqrt_alpha_bar: np.ndarray
    sqrt_one_minus_alpha_bar: np.ndarray
    p: np.ndarray
    q: np.ndarray
    r: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    sigma: np.ndarray
    follow: np.ndarray

    @property
    def nfe(self) -> int:
        """The number of evaluations of the network."""
        return len(self.t)

    def trimmed(self) -> "Table":
        """Return the table with None for columns without effect, so that a compiled program has no operations for them.

        These are sigma if no row adds noise, and p, q and r if no row goes back.
        """
        noiseless, onward = not np.any(self.sigma), not (np.any(self.q) or np.any(self.r))
        without = ({"sigma": None} if noiseless else {}) | ({"p": None, "q": None, "r": None} if onward else {})
        return self._replace(**without)


def blank(t: np.ndarray, alpha_bar: np.ndarray, K: int = 1) -> Table:
    """Return a table for evaluations at some noise levels whose rows all give the clean image: u <- x_0."""
    zero, none = np.zeros(len(t)), np.zeros((len(t), K))
    return Table(
        np.asarray(t, np.float64), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar),
        p=zero + 1, q=zero.copy(), r=none.copy(), a=zero.copy(), b=np.eye(1, K).repeat(len(t), 0), c=none.copy(),
        sigma=zero.copy(), follow=zero.copy(),
    )  # fmt: skip


def noise_from_keys(keys: jax.Array, shape: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """Return a function j -> noise [B, *shape] of step j. The noise of image i depends only on keys[i] and j."""
    return lambda j: draw(keys, j, shape)


def limit(x_0: jax.Array, clip: bool | jax.Array = True, dynamic: float | jax.Array | None = None) -> jax.Array:
    """Limit estimates of clean images [B, H, W, C] to [-1, 1].

    Args:
      clip: False returns them unchanged.
      dynamic: use dynamic thresholding instead (Imagen, arXiv 2205.11487, section 2.3): each image is clipped to this
        quantile of its absolute values and divided by it, if it is over 1.
    """
    if dynamic is None:
        most = jnp.where(clip, 1, jnp.inf).astype(x_0.dtype)
        return jnp.clip(x_0, -most, most)
    s = jnp.maximum(jnp.quantile(jnp.abs(x_0), dynamic, axis=(1, 2, 3), keepdims=True), 1)
    return jnp.clip(x_0, -s, s) / s


def reverse(
    predict: Predict,
    table: Table,
    u: jax.Array,
    noise: Callable[[jax.Array], jax.Array],
    clip: bool | jax.Array = True,
    dynamic: float | jax.Array | None = None,
    past: tuple[Any, Any, Any] | None = None,
) -> jax.Array:
    """Run the chain from u [B, H, W, C] at the table's first step down to u_0, which is the image.

    Args:
      table: a trimmed table.
      noise: j -> the noise of the j-th row; it broadcasts against u.
      clip, dynamic: how to limit the estimates of x_0; see `limit`.
      past: for a table that starts in the middle of a chain: base, and the K earlier x_0 and eps, newest first.
    """
    blanks = (jnp.zeros_like(u),) * table.b.shape[1]
    rows = jax.tree.map(lambda column: jnp.asarray(column, u.dtype), table)

    def mix(weights: jax.Array, images: tuple[jax.Array, ...]) -> jax.Array:
        return sum(w * image for w, image in zip(weights, images, strict=True))

    def step(carry: Any, row: tuple[Table, jax.Array]) -> tuple[Any, None]:
        (u, (base, x_0s, epss)), (r, j) = carry, row
        x_0, eps = predict(u, Level(jnp.full(u.shape[:1], r.t), r.sqrt_alpha_bar, r.sqrt_one_minus_alpha_bar))
        x_0 = limit(x_0, clip, dynamic)
        eps += r.follow * ((u - r.sqrt_alpha_bar * x_0) / r.sqrt_one_minus_alpha_bar - eps)
        x_0s, epss = (x_0, *x_0s[:-1]), (eps, *epss[:-1])
        base = u if r.q is None else r.p * u + r.q * base + mix(r.r, x_0s)
        u = r.a * base + mix(r.b, x_0s) + mix(r.c, epss)
        return (u if r.sigma is None else u + r.sigma * noise(j), (base, x_0s, epss)), None

    return jax.lax.scan(step, (u, past or (u, blanks, blanks)), (rows, jnp.arange(table.nfe)))[0][0]
