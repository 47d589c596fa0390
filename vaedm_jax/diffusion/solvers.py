"""Solvers of the probability-flow ODE, which need fewer steps than ancestral sampling. Each is a table for `reverse`.

Names: a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), which DPM-Solver calls alpha and sigma; lambda = log(a / s);
EDM's sigma = s / a, for which d(u / a) / d sigma = eps.

Row i is evaluated at level i and leads to level i + 1. The last row leads to the clean image, where lambda is infinite,
and returns x_0. Multistep solvers start with lower orders, since they have no past yet. Those in lambda also end with
lower orders, as their authors' code does.
"""

import numpy as np

from vaedm_jax.diffusion.reverse import Table, blank
from vaedm_jax.diffusion.schedule import Schedule, respace

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def exponential_weights(at: np.ndarray, h: float) -> np.ndarray:
    """Return weights w with sum_k w_k f(at_k) = integral of h exp(-h (1 - s)) f(s) over [0, 1].

    The equality holds for polynomials f of a degree below the number of points. The integral is that of a step of
    length h in lambda (arXiv 2211.01095, eq. 8), with time in units of h.
    """
    powers = np.arange(len(at))[:, None]
    moments = (NODES**powers * WEIGHTS * h * np.exp(-h * (1 - NODES))).sum(axis=1)
    return np.linalg.solve(at**powers, moments)


def predictor_weights(lambdas: np.ndarray, order: int) -> np.ndarray:
    """Return the weights of x_0, newest first, in the step to the last level, from the `order` levels before it."""
    h = lambdas[-1] - lambdas[-2]
    at = (lambdas[-2 : -2 - order : -1] - lambdas[-2]) / h
    if order == 2:  # as DPM-Solver++(2M) and UniPC-2 have it, in place of the exact integral; the order is the same
        return -np.expm1(-h) * np.array([1 - 0.5 / at[1], 0.5 / at[1]])
    return exponential_weights(at, h)


def corrector_weights(lambdas: np.ndarray, order: int) -> np.ndarray:
    """Return the weights of x_0, newest first, in the step to the last level, from it and the `order` before it."""
    h = lambdas[-1] - lambdas[-2]
    if order == 1:
        return -np.expm1(-h) * np.array([0.5, 0.5])
    return exponential_weights((lambdas[-1 : -2 - order : -1] - lambdas[-2]) / h, h)


def orders(order: int, n: int) -> list[int]:
    """Return the order of each of n rows, except the last."""
    return [min(order, i + 1, n - i) for i in range(n - 1)]


def dpm_solver_pp(schedule: Schedule, order: int, correct: bool = False) -> Table:
    """Return DPM-Solver++, multistep (arXiv 2211.01095, Algorithm 2 and appendix B), of order 2 (2M) or 3 (3M).

    A step of 2M, with h = lambda_{i+1} - lambda_i and r = (lambda_i - lambda_{i-1}) / h, is

        u_{i+1} = s_{i+1} / s_i u_i + a_{i+1} (1 - exp(-h)) ((1 + 1 / (2 r)) x_0[0] - 1 / (2 r) x_0[1])

    so the row has a = s_{i+1} / s_i, and b has the two factors of x_0. 3M integrates the parabola through three
    estimates exactly, and is of order 3. (The authors' multistep code has half of the second-order term, and is of
    order 2.)

    Args:
      correct: return UniPC (arXiv 2302.04867) of this order, with B(h) = exp(h) - 1: the estimate at the end of a step
        corrects the step, without another evaluation.
    """
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1], K=order + 1 if correct else order)
    a, s, lambdas = table.sqrt_alpha_bar, table.sqrt_one_minus_alpha_bar, schedule.log_snr[::-1]
    for i, o in enumerate(orders(order, table.nfe)):
        table.a[i] = s[i + 1] / s[i]
        table.b[i] = 0
        table.b[i, :o] = a[i + 1] * predictor_weights(lambdas[: i + 2], o)
        if correct:
            table.p[i + 1], table.q[i + 1] = 0, table.a[i]
            table.r[i + 1, : o + 1] = a[i + 1] * corrector_weights(lambdas[: i + 2], o)
    return table


def unipc(schedule: Schedule, order: int) -> Table:
    """Return UniPC (arXiv 2302.04867), multistep on x_0. With its corrector, order p converges as h**(p + 1)."""
    return dpm_solver_pp(schedule, order, correct=True)


ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(schedule: Schedule, order: int = 4) -> Table:
    """Return iPNDM (arXiv 2204.13902): Adams-Bashforth in EDM's sigma, with the coefficients of equal steps."""
    table = blank(schedule.t[::-1], schedule.alpha_bar[::-1], K=order)
    sigma = table.sqrt_one_minus_alpha_bar / table.sqrt_alpha_bar
    table.follow[:] = 1
    for i in range(table.nfe - 1):
        o = min(order, i + 1)
        table.a[i], table.b[i] = table.sqrt_alpha_bar[i + 1] / table.sqrt_alpha_bar[i], 0
        table.c[i, :o] = table.sqrt_alpha_bar[i + 1] * (sigma[i + 1] - sigma[i]) * np.array(ADAMS_BASHFORTH[o - 1])
    return table


def heun(
    schedule: Schedule,
    full: Schedule,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = np.inf,
    churn_noise: float = 1.0,
) -> Table:
    """Return EDM's solver (arXiv 2206.00364, Algorithm 2): 2 N - 1 evaluations for N steps; stochastic if churn > 0.

    Args:
      full: the whole schedule, which gives the steps of levels between those of `schedule`.
      churn, churn_min, churn_max, churn_noise: EDM's S_churn, S_tmin, S_tmax and S_noise. Fresh noise before a step
        raises its sigma by the factor 1 + min(churn / N, sqrt(2) - 1), if sigma lies between churn_min and churn_max.
        It never raises sigma above the first of the chain. The first step is left out: its noise is fresh.
    """
    sigma, n = np.exp(-schedule.log_snr[::-1]), len(schedule.t)
    raised = np.where((sigma >= churn_min) & (sigma <= churn_max), sigma * (1 + min(churn / n, np.sqrt(2) - 1)), sigma)
    raised = np.append(sigma[:1], np.minimum(raised[1:], sigma[0]))
    levels = np.append(np.stack([raised[:-1], sigma[1:]], 1).ravel(), raised[-1])  # of all evaluations
    where = respace(full, full.position(-np.log(levels)))
    table = blank(where.t, 1 / (1 + levels**2), K=2)
    table.follow[:] = 1
    a = table.sqrt_alpha_bar
    for i in range(n - 1):
        first, second, after = 2 * i, 2 * i + 1, 2 * i + 2
        h = sigma[i + 1] - raised[i]
        table.a[first], table.b[first], table.c[first, 0] = a[second] / a[first], 0, a[second] * h
        table.p[second], table.q[second] = 0, 1
        table.a[second], table.b[second], table.c[second] = a[after] / a[first], 0, a[after] * h / 2
        table.sigma[second] = a[after] * churn_noise * np.sqrt(raised[i + 1] ** 2 - sigma[i + 1] ** 2)
    return table
