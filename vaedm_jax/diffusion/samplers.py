"""Reverse chains: a sampler is a table of coefficients, and one `lax.scan` runs any of them.

Every row of a table is one evaluation of the network at u, which gives eps and the clean image x_0 (`target.py`):

    base <- p u + q base + sum_k r_k x_0[k]
    u    <- a base + sum_k b_k x_0[k] + sum_k c_k eps[k] + sigma noise

where [k] is the estimate of k evaluations ago. The first line is the identity for all but those that go back: Heun's
second evaluation starts from where its first one did, and UniPC's corrector mends the step that led to u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.images import draw
from vaedm_jax.diffusion.process import Level
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.target import Predict


class Table(NamedTuple):
    """One row for each evaluation in the order of execution: arrays [N], r, b and c [N, K]; float64 on the host.

    Columns that have no effect may be None; see `trimmed`.

    Attributes:
      t, root, rest: the step that the network is told, sqrt(alpha_bar) and sqrt(1 - alpha_bar) there.
      follow: 1 where eps is what follows from the clipped x_0, 0 where it is used as it was predicted.
    """

    t: np.ndarray
    root: np.ndarray
    rest: np.ndarray
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
        """Return the table with None for columns without effect: `sigma` where no noise is added, p, q and r where no
        row goes back. A compiled program has no operations for them."""
        noiseless, onward = not np.any(self.sigma), not (np.any(self.q) or np.any(self.r))
        without = ({"sigma": None} if noiseless else {}) | ({"p": None, "q": None, "r": None} if onward else {})
        return self._replace(**without)


def blank(t: np.ndarray, alpha_bar: np.ndarray, K: int = 1) -> Table:
    """A table for evaluations at some levels that draws the clean image at once: u <- x_0."""
    zero, none = np.zeros(len(t)), np.zeros((len(t), K))
    return Table(
        np.asarray(t, np.float64), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar),
        p=zero + 1, q=zero.copy(), r=none.copy(), a=zero.copy(), b=np.eye(1, K).repeat(len(t), 0), c=none.copy(),
        sigma=zero.copy(), follow=zero.copy(),
    )  # fmt: skip


def _single_step(schedule: Schedule, **columns: np.ndarray) -> Table:
    """A table from columns [N] in the schedule's order; the last step that is executed adds no noise."""
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1])
    for name, column in columns.items():
        old = getattr(table, name)
        old[:] = column[::-1].reshape(old.shape)
    table.sigma[-1] = 0.0
    return table


def ddpm(schedule: Schedule, variance: str = "fixedsmall") -> Table:
    """Ancestral sampling, Algorithm 2: the posterior's mean at the predicted x_0, with one of VARIANCES."""
    of_x_0, of_u_t = schedule.posterior_mean()
    return _single_step(schedule, a=of_u_t, b=of_x_0, sigma=np.exp(0.5 * schedule.log_variance(variance)))


def ddim(schedule: Schedule, eta: float = 0.0, clip_eps: bool = True) -> Table:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): deterministic for eta = 0; eta = 1 has the posterior's variance.

    Args:
      clip_eps: where x_0 is clipped, eps is what follows from it. False: as predicted, as in the authors' code.
    """
    sigma = eta * np.sqrt(schedule.posterior_variance)
    c = np.sqrt(1 - schedule.alpha_bar_prev - sigma**2)
    follow = np.full_like(c, clip_eps)
    return _single_step(schedule, b=np.sqrt(schedule.alpha_bar_prev), c=c, sigma=sigma, follow=follow)


def noise_from_keys(keys: jax.Array, shape: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """Return a function j -> noise [B, *shape] of step j; that of image i depends on keys[i] and j alone."""
    return lambda j: draw(keys, j, shape)


def limit(x_0: jax.Array, clip: bool | jax.Array = True, dynamic: float | jax.Array | None = None) -> jax.Array:
    """Return estimates of clean images [B, H, W, C], limited to [-1, 1].

    Args:
      clip: False leaves them as they are.
      dynamic: a quantile. Each image is clipped to this quantile of its absolute values, if that is over 1, and divided
        by it (dynamic thresholding: Imagen, arXiv 2205.11487, section 2.3), in place of the clipping at 1.
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
      table: a trimmed one.
      noise: j -> the noise of the j-th step that is executed, broadcast against u.
      clip, dynamic: of the estimates of x_0 before they are used; see `limit`.
      past: base, and the K estimates x_0 and eps before the first row, newest first, for a table that begins midway.
    """
    blanks = (jnp.zeros_like(u),) * table.b.shape[1]
    rows = jax.tree.map(lambda column: jnp.asarray(column, u.dtype), table)

    def mix(weights: jax.Array, images: tuple[jax.Array, ...]) -> jax.Array:
        return sum(w * image for w, image in zip(weights, images, strict=True))

    def step(carry: Any, row: tuple[Table, jax.Array]) -> tuple[Any, None]:
        (u, (base, x_0s, epss)), (r, j) = carry, row
        x_0, eps = predict(u, Level(jnp.full(u.shape[:1], r.t), r.root, r.rest))
        x_0 = limit(x_0, clip, dynamic)
        eps += r.follow * ((u - r.root * x_0) / r.rest - eps)
        x_0s, epss = (x_0, *x_0s[:-1]), (eps, *epss[:-1])
        base = u if r.q is None else r.p * u + r.q * base + mix(r.r, x_0s)
        u = r.a * base + mix(r.b, x_0s) + mix(r.c, epss)
        return (u if r.sigma is None else u + r.sigma * noise(j), (base, x_0s, epss)), None

    return jax.lax.scan(step, (u, past or (u, blanks, blanks)), (rows, jnp.arange(table.nfe)))[0][0]
