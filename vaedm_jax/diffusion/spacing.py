"""Which of the T steps a shorter chain visits."""

import math

import numpy as np

from vaedm_jax.errors import UserError


def uniform(T: int, n: int) -> np.ndarray:
    """`range(0, T, s)` for the integer stride s that gives exactly n steps."""
    stride = math.ceil(T / n)
    if len(range(0, T, stride)) != n:
        near = sorted({len(range(0, T, s)) for s in (stride - 1, stride) if s})
        raise UserError(
            f"{n} steps: no integer stride over {T} gives that many (the nearest are {' and '.join(map(str, near))}); "
            "spacing 'even' takes any number"
        )
    return np.arange(0, T, stride)


def quadratic(T: int, n: int) -> np.ndarray:
    """Distinct values of `int(linspace(0, sqrt(0.8 T), n)**2)`: denser at little noise, up to 0.8 T, may be under n."""
    return np.unique((np.linspace(0, np.sqrt(0.8 * T), n) ** 2).astype(int))


def even(T: int, n: int) -> np.ndarray:
    """n steps from 0 to T - 1, as even as integers allow."""
    return np.round(np.linspace(0, T - 1, n)).astype(int) if n > 1 else np.array([T - 1])


SPACINGS = {"even": even, "uniform": uniform, "quadratic": quadratic}
STARTS = ("noise", "truncated", "warm")


def timesteps(start: str, spacing: str, n: int, T: int, t_start: int) -> np.ndarray:
    """The steps, ascending, that a chain of n steps visits.

    Args:
      start: `noise`: from pure noise at T, respaced; `truncated`: the last n of the T steps, with pure noise taken
        for u_{n-1}; `warm`: from the noised x_hat at t_start, the steps spread over t_start ... 0.
      spacing: one of SPACINGS; `truncated` has none.
    """
    if not 1 <= n <= T:
        raise UserError(f"{n} steps: a chain of T = {T} has from 1 to {T}")
    if start == "truncated":
        return np.arange(n)
    if start == "noise":
        return SPACINGS[spacing](T, n)
    if not 0 <= t_start < T:
        raise UserError(f"t_start = {t_start}: it is a step from 0 to T - 1 = {T - 1}")
    if n > t_start + 1:
        raise UserError(f"{n} steps from t_start = {t_start}: there are only {t_start + 1}")
    return SPACINGS[spacing](t_start + 1, n)
