"""Spacings: which of the T steps a shorter chain visits."""

import math

import numpy as np

from vaedm_jax.diffusion.schedule import Schedule
from vaedm_jax.errors import UserError


def uniform(T: int, n: int) -> np.ndarray:
    """Return `range(0, T, s)` for the integer stride s that gives exactly n steps; UserError if none does."""
    stride = math.ceil(T / n)
    if len(range(0, T, stride)) != n:
        near = sorted({len(range(0, T, s)) for s in (stride - 1, stride) if s})
        raise UserError(
            f"{n} steps: no integer stride over {T} gives that many (the nearest are {' and '.join(map(str, near))}); "
            "spacing 'even' takes any number"
        )
    return np.arange(0, T, stride)


def quadratic(T: int, n: int) -> np.ndarray:
    """Return the distinct values of `int(linspace(0, sqrt(0.8 T), n)**2)`, at most n, denser at little noise."""
    return np.unique((np.linspace(0, np.sqrt(0.8 * T), n) ** 2).astype(int))


def even(T: int, n: int) -> np.ndarray:
    """Return n steps from 0 to T - 1, as even as integers allow."""
    return np.round(np.linspace(0, T - 1, n)).astype(int) if n > 1 else np.array([T - 1])


def log_snr(low: float, high: float, n: int) -> np.ndarray:
    """Return n values of log_snr, evenly spaced (DPM-Solver, arXiv 2206.00927)."""
    return np.linspace(high, low, n) if n > 1 else np.array([low])


def open_log_snr(low: float, high: float, n: int) -> np.ndarray:
    """Return the first n of n + 1 values of log_snr, evenly spaced, for chains that jump to the clean image."""
    return np.linspace(high, low, n + 1)[1:]


def karras(low: float, high: float, n: int, rho: float = 7.0) -> np.ndarray:
    """Return n values of log_snr, evenly spaced in exp(-log_snr)**(1 / rho) (EDM, arXiv 2206.00364, eq. 5)."""
    return -rho * np.log(np.linspace(np.exp(-high / rho), np.exp(-low / rho), n)) if n > 1 else np.array([low])


def uniform_from(t_start: int, n: int) -> np.ndarray:
    """Return the n steps t_start, t_start - s, ... for the integer stride s that gives exactly n."""
    return t_start - uniform(t_start + 1, n)[::-1]


def quadratic_from(t_start: int, n: int) -> np.ndarray:
    """Return the distinct values of `int(linspace(0, sqrt(t_start), n)**2)`, the last of which is t_start."""
    return np.unique([*(np.linspace(0, np.sqrt(t_start), n) ** 2).astype(int)[:-1], t_start])


STEPS = {"even": even, "uniform": uniform, "quadratic": quadratic}  # (T, n) -> whole steps from noise, as published
# (t_start, n) -> whole steps from t_start, which is one of them.
STEPS_FROM = {"even": lambda t_start, n: even(t_start + 1, n), "uniform": uniform_from, "quadratic": quadratic_from}
LEVELS = {"logsnr": log_snr, "open": open_log_snr, "karras": karras}  # (log_snr at the start, at the end, n) -> log_snr
SPACINGS = (*STEPS, *LEVELS)
RULE_OF = 256  # training images whose errors give the variance that `warm_step` takes
STARTS = ("noise", "truncated", "warm")


def timesteps(full: Schedule, start: str, spacing: str, n: int, t_start: int) -> np.ndarray:
    """Return the positions in `full`, ascending, that a chain of n steps visits. They may lie between its steps.

    Args:
      start: `noise`: pure noise at T, and n steps spread over the chain. `truncated`: pure noise as u_{n-1}, and the
        last n of the T steps. `warm`: x_hat, noised to t_start, and n steps spread over t_start ... 0.
      spacing: one of SPACINGS; `truncated` has none. From noise, `uniform` and `quadratic` start below T - 1, as
        published, with pure noise as u there. A single step is the first of the chain.

    Raises:
      UserError: the chain has no such steps.
    """
    T = len(full.t)
    if not 1 <= n <= T:
        raise UserError(f"{n} steps: a chain of T = {T} has from 1 to {T}")
    if start == "truncated":
        return np.arange(n)
    if start == "warm" and not 0 <= t_start < T:
        raise UserError(f"t_start = {t_start}: it is a step from 0 to T - 1 = {T - 1}")
    if start == "warm" and n > t_start + 1:
        rule = "" if t_start else "; the rule that finds a t_start needs training images (Chain.with_t_start)"
        raise UserError(f"{n} steps from t_start = {t_start}: there are only {t_start + 1}{rule}")
    last = t_start if start == "warm" else T - 1
    if spacing in STEPS and n == 1:
        return np.array([last])
    if spacing in STEPS:
        return STEPS_FROM[spacing](last, n) if start == "warm" else STEPS[spacing](T, n)
    return full.position(LEVELS[spacing](full.log_snr[last], full.log_snr[0], n))


def principal_variance(error: np.ndarray) -> float:
    """Return tr(S^2) / tr(S), S = E[e e^T], of the errors e [N, ...] of images in [-1, 1]; see `warm_step`.

    For two independent errors E[(e_i . e_j)^2] = tr(S^2), for any N. Pairs of an error with itself are left out, since
    their products are much larger. S is not centred: an error that all images share counts.

    Raises:
      UserError: there are fewer than two errors.
    """
    n, error = len(error), error.reshape(len(error), math.prod(error.shape[1:]))
    if n < 2:
        raise UserError(f"t_start = 0: the rule needs at least two training images, and there are {n}; give a t_start")
    gram = np.float64(error @ error.T)
    total, own = np.trace(gram) / n, np.sum(np.diag(gram) ** 2)
    return float((np.sum(gram**2) - own) / (n * (n - 1)) / total) if total else 0.0


def warm_step(full: Schedule, variance: float, n: int) -> int:
    """Return the step at which a warm start of n steps should begin: the first t with n snr_t variance <= 1.

    snr_t = alpha_bar_t / (1 - alpha_bar_t). The noise at t_start hides the error of x_hat from the network, which must
    then find what x_hat lacks. Two errors are balanced. (1) In a direction in which x_0 varies by `variance` about
    x_hat, the exact chain from q(u_t | x_0 = x_hat) loses a share of about snr_t variance of that variance. (2) n steps
    of DDIM have an error of the order 1 / n, which grows with t. docs/emoji.md compares the rule with a sweep.

    Args:
      variance: the mean of the variances of the principal directions of x_0 - x_hat, images in [-1, 1], each weighted
        by itself: the sum of their squares over their sum. See `principal_variance`.
    """
    enough = n * full.alpha_bar / (1 - full.alpha_bar) * variance <= 1
    return max(int(np.argmax(enough)) if enough.any() else len(full.t) - 1, n - 1)
