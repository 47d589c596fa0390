"""Solvers of the probability-flow ODE, which need fewer steps than the chains: each builds a table for `reverse`.

Letters: root = sqrt(alpha_bar) and rest = sqrt(1 - alpha_bar), which DPM-Solver calls alpha and sigma; lambda =
log(root / rest); EDM's sigma = rest / root, for which d(u / root) / d sigma = eps. Rows are in the order of execution:
row i is evaluated at level i and leads to level i + 1. The last row leads to the clean image, where lambda is
infinite, and takes x_0 itself. Multistep solvers begin with lower orders, since they have no past yet; those in lambda
also end so, with order 2 before the last row, as their authors' code does.
"""

import numpy as np

from vaedm_jax.diffusion.samplers import Table, blank
from vaedm_jax.diffusion.schedule import Schedule, respace

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def exponential_weights(at: np.ndarray, h: float) -> np.ndarray:
    """Weights w with sum_k w_k f(at_k) = integral of h exp(-h (1 - s)) f(s) over [0, 1] for all polynomials f.

    It is the integral in a step of length h in lambda (arXiv 2211.01095, eq. 8), with time in units of h; the
    polynomials are those of a degree below the number of points.
    """
    powers = np.arange(len(at))[:, None]
    moments = (NODES**powers * WEIGHTS * h * np.exp(-h * (1 - NODES))).sum(axis=1)
    return np.linalg.solve(at**powers, moments)


def predictor_weights(lambdas: np.ndarray, order: int) -> np.ndarray:
    """Weights of x_0 at the last `order` of the levels but one, newest first, in the step to the last of them."""
    h = lambdas[-1] - lambdas[-2]
    at = (lambdas[-2 : -2 - order : -1] - lambdas[-2]) / h
    if order == 2:  # what DPM-Solver++(2M) and UniPC-2 have for the exact integral; of the same order
        return -np.expm1(-h) * np.array([1 - 0.5 / at[1], 0.5 / at[1]])
    return exponential_weights(at, h)


def corrector_weights(lambdas: np.ndarray, order: int) -> np.ndarray:
    """Weights of x_0 at the last `order` + 1 of the levels, newest first, in the step to the last of them."""
    h = lambdas[-1] - lambdas[-2]
    if order == 1:
        return -np.expm1(-h) * np.array([0.5, 0.5])
    return exponential_weights((lambdas[-1 : -2 - order : -1] - lambdas[-2]) / h, h)


def orders(order: int, n: int) -> list[int]:
    """The order of each of n rows but the last."""
    return [min(order, i + 1, n - i) for i in range(n - 1)]


def dpm_solver_pp(schedule: Schedule, order: int, correct: bool = False) -> Table:
    """DPM-Solver++, multistep (arXiv 2211.01095, Algorithm 2 and appendix B), of order 2 (2M) or 3 (3M).

    3M integrates the parabola through three estimates exactly, which makes it of order 3. (The authors' multistep code
    has half of the second-order term, and is of order 2.)

    Args:
      correct: UniPC (arXiv 2302.04867) of this order, with B(h) = exp(h) - 1: the estimate at the end of a step mends
        the step, at no further evaluation.
    """
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1], K=order + 1 if correct else order)
    root, rest, lambdas = table.root, table.rest, schedule.log_snr[::-1]
    for i, o in enumerate(orders(order, table.nfe)):
        table.a[i] = rest[i + 1] / rest[i]
        table.b[i] = 0
        table.b[i, :o] = root[i + 1] * predictor_weights(lambdas[: i + 2], o)
        if correct:
            table.p[i + 1], table.q[i + 1] = 0, table.a[i]
            table.r[i + 1, : o + 1] = root[i + 1] * corrector_weights(lambdas[: i + 2], o)
    return table


def unipc(schedule: Schedule, order: int) -> Table:
    """UniPC (arXiv 2302.04867), multistep on x_0; with its corrector, order p converges as h**(p + 1)."""
    return dpm_solver_pp(schedule, order, correct=True)


ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(schedule: Schedule, order: int = 4) -> Table:
    """iPNDM (arXiv 2204.13902): Adams-Bashforth in EDM's sigma, with the coefficients of equal steps on any steps."""
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1], K=order)
    sigma = table.rest / table.root
    table.follow[:] = 1
    for i in range(table.nfe - 1):
        o = min(order, i + 1)
        table.a[i], table.b[i] = table.root[i + 1] / table.root[i], 0
        table.c[i, :o] = table.root[i + 1] * (sigma[i + 1] - sigma[i]) * np.array(ADAMS_BASHFORTH[o - 1])
    return table


def heun(
    schedule: Schedule,
    full: Schedule,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    churn_noise: float = 1.0,
) -> Table:
    """EDM's solver (arXiv 2206.00364, Algorithm 2), with 2 N - 1 evaluations for N steps; stochastic where churn > 0.

    Args:
      full: the whole schedule, which tells the step of a level between those of `schedule`.
      churn, churn_min, churn_max, churn_noise: S_churn, S_tmin, S_tmax, S_noise: before each step of N whose sigma lies
        between the two, it is raised by a factor of 1 + min(churn / N, sqrt(2) - 1) by fresh noise, but not above the
        chain's first, and not before the first step, which begins with fresh noise already.
    """
    sigma, n = np.exp(-schedule.log_snr[::-1]), len(schedule.t)
    raised = np.where((sigma >= churn_min) & (sigma <= churn_max), sigma * (1 + min(churn / n, np.sqrt(2) - 1)), sigma)
    raised = np.append(sigma[:1], np.minimum(raised[1:], sigma[0]))
    levels = np.append(np.stack([raised[:-1], sigma[1:]], 1).ravel(), raised[-1])  # of all evaluations
    where = respace(full, full.position(-np.log(levels)))
    table = blank(where.t, 1 / (1 + levels**2), K=2)
    table.follow[:] = 1
    root = table.root
    for i in range(n - 1):
        first, second, after = 2 * i, 2 * i + 1, 2 * i + 2
        h = sigma[i + 1] - raised[i]
        table.a[first], table.b[first], table.c[first, 0] = root[second] / root[first], 0, root[second] * h
        table.p[second], table.q[second] = 0, 1
        table.a[second], table.b[second], table.c[second] = root[after] / root[first], 0, root[after] * h / 2
        table.sigma[second] = root[after] * churn_noise * np.sqrt(raised[i + 1] ** 2 - sigma[i + 1] ** 2)
    return table
