"""Samplers: each is a table of coefficients for `reverse`. `SAMPLERS` names all of them.

Add a sampler by a function that returns a table, here or in `solvers.py`, and an entry of SAMPLERS.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vaedm_jax.diffusion.reverse import Table, blank
from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.diffusion.solvers import dpm_solver_pp, heun, ipndm, unipc


def _single_step(schedule: Schedule, **columns: np.ndarray) -> Table:
    """Return a table of columns [N] in the order of the schedule; the last row that is executed adds no noise."""
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1])
    for name, column in columns.items():
        old = getattr(table, name)
        old[:] = column[::-1].reshape(old.shape)
    table.sigma[-1] = 0.0
    return table


def ddpm(schedule: Schedule, variance: str = "fixedsmall") -> Table:
    """Return ancestral sampling (Algorithm 2): the posterior mean of the predicted x_0, with one of VARIANCES."""
    of_x_0, of_u_t = schedule.posterior_coefficients()
    return _single_step(schedule, a=of_u_t, b=of_x_0, sigma=np.exp(0.5 * schedule.log_variance(variance)))


def ddim(schedule: Schedule, eta: float = 0.0, clip_eps: bool = True) -> Table:
    """Return DDIM (arXiv 2010.02502, eq. 12 and 16): deterministic for eta = 0; eta = 1 has the posterior variance.

    Args:
      clip_eps: compute eps from the clipped x_0. False: use the predicted eps, as the authors' code does.
    """
    sigma = eta * np.sqrt(schedule.posterior_variance)
    c = np.sqrt(np.maximum(1 - schedule.alpha_bar_prev - sigma**2, 0))  # rounding may leave it just below 0
    follow = np.full_like(c, clip_eps)
    return _single_step(schedule, b=np.sqrt(schedule.alpha_bar_prev), c=c, sigma=sigma, follow=follow)


def consistency(schedule: Schedule) -> Table:
    """Return consistency sampling (arXiv 2303.01469, Algorithm 1): to the clean image, and out to the next level."""
    alpha_bar = schedule.alpha_bar_prev
    return _single_step(schedule, a=np.zeros_like(alpha_bar), b=np.sqrt(alpha_bar), sigma=np.sqrt(1 - alpha_bar))


class Sampler(NamedTuple):
    """An entry of SAMPLERS.

    Attributes:
      table: (chain, its schedule, the full schedule) -> its table; `chain` has the settings, see `chain.Chain`.
      options: the settings that no other sampler uses.
      steps: the largest number of steps within a number of evaluations.
    """

    table: Callable[[Any, Schedule, Schedule], Table]
    options: tuple[str, ...] = ()
    steps: Callable[[int], int] = lambda evaluations: evaluations


SAMPLERS = {
    "ddpm": Sampler(lambda c, s, full: ddpm(s, c.variance), ("variance",)),
    "ddim": Sampler(lambda c, s, full: ddim(s, c.eta, c.clip_eps), ("eta", "clip_eps")),
    "consistency": Sampler(lambda c, s, full: consistency(s)),
    "dpm++2m": Sampler(lambda c, s, full: dpm_solver_pp(s, 2)),
    "dpm++3m": Sampler(lambda c, s, full: dpm_solver_pp(s, 3)),
    "unipc2": Sampler(lambda c, s, full: unipc(s, 2)),
    "unipc3": Sampler(lambda c, s, full: unipc(s, 3)),
    "ipndm": Sampler(lambda c, s, full: ipndm(s)),
    "tuned": Sampler(lambda c, s, full: unipc(s, 2)),  # the model replaces it by a learnt table (learnt.py)
    "heun": Sampler(
        lambda c, s, full: heun(s, full, c.churn, c.churn_min, c.churn_max, c.churn_noise),
        ("churn", "churn_min", "churn_max", "churn_noise"),
        lambda evaluations: (evaluations + 1) // 2,
    ),
}
