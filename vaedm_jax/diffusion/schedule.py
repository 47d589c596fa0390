"""The noise schedule, with all T steps or with some of them, in float64 on the host."""

from typing import Any, NamedTuple

import numpy as np

VARIANCES = ("fixedsmall", "fixedlarge")
GIVEN_FOR = 1000  # the number of steps that the betas of the settings refer to
MOST_BETA = 0.999  # larger betas are clipped to it
MOST_STEPS, WHY_STEPS = 100_000, "tables in memory have an entry for each step of a chain"


class Schedule(NamedTuple):
    """A chain of N steps, all arrays [N], from the least noise to the most.

    Attributes:
      t: the step of the T-step chain, which the network is told; it may lie between two steps.
      alpha_bar: the share of the image's variance that is left after the step.
      alpha_bar_prev: alpha_bar after the previous step of this chain; 1 at the first step.
    """

    t: np.ndarray
    alpha_bar: np.ndarray
    alpha_bar_prev: np.ndarray

    @property
    def beta(self) -> np.ndarray:
        """beta_t = 1 - alpha_t, the share of the variance that a step of this chain replaces by noise."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @property
    def posterior_variance(self) -> np.ndarray:
        """The variance of q(u_{t-1} | u_t, x_0), beta-tilde of eq. 18; 0 at the first step."""
        return (1 - self.alpha_bar_prev) / (1 - self.alpha_bar) * self.beta

    @property
    def log_snr(self) -> np.ndarray:
        """Half the log signal-to-noise ratio: lambda_t = log sqrt(alpha_bar_t / (1 - alpha_bar_t))."""
        return 0.5 * np.log(self.alpha_bar / (1 - self.alpha_bar))

    def position(self, log_snr: np.ndarray) -> np.ndarray:
        """Return the positions at which the chain has values of log_snr, for `respace`. They may lie between steps."""
        log_alpha_bar = -np.logaddexp(0, -2 * np.asarray(log_snr))
        return np.interp(-log_alpha_bar, -np.log(self.alpha_bar), np.arange(len(self.t)))

    def posterior_coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients of x_0 and of u_t in the mean of q(u_{t-1} | u_t, x_0).

        Eq. 17 of the paper has a misprint in the second: sqrt(alpha_bar_t) should be sqrt(alpha_t).
        """
        of_x_0 = np.sqrt(self.alpha_bar_prev) * self.beta / (1 - self.alpha_bar)
        of_u_t = np.sqrt(1 - self.beta) * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        return of_x_0, of_u_t

    def log_variance(self, variance: str) -> np.ndarray:
        """Return the log-variances of the reverse steps.

        `fixedsmall` is the variance of the posterior (the paper), `fixedlarge` is beta_t. The first entry is that of
        the posterior at index 1 for both, as in the DDPM paper's code: the posterior's own is log 0.
        """
        values = {"fixedsmall": self.posterior_variance, "fixedlarge": self.beta}[variance].copy()
        values[0] = self.posterior_variance[min(1, len(self.t) - 1)] or self.beta[0]
        return np.log(values)


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    """Return the paper's schedule: beta rises linearly over T steps, and is clipped to MOST_BETA."""
    alpha_bar = np.cumprod(1 - np.minimum(np.linspace(beta_1, beta_T, T, dtype=np.float64), MOST_BETA))
    return Schedule(np.arange(T), alpha_bar, np.append(1.0, alpha_bar[:-1]))


def compute_betas(settings: Any) -> tuple[int, float, float]:
    """Return T, beta_1 and beta_T for `linear_schedule`; `scale_betas` multiplies the betas by 1000 / T."""
    scale = GIVEN_FOR / settings.T if settings.scale_betas else 1.0
    return settings.T, scale * settings.beta_1, scale * settings.beta_T


def make_schedule(settings: Any) -> Schedule:
    """Return the schedule of a `ddpm` section of the configuration."""
    return linear_schedule(*compute_betas(settings))


def respace(schedule: Schedule, positions: np.ndarray) -> Schedule:
    """Return the chain that visits only some positions (ascending) of a schedule: same marginals, new betas.

    Between two steps log alpha_bar is interpolated linearly in t, as in DPM-Solver (arXiv 2206.00927).
    """
    low = np.floor(positions).astype(int)
    share, high = positions - low, np.minimum(low + 1, len(schedule.t) - 1)
    t = schedule.t[low] * (1 - share) + schedule.t[high] * share
    alpha_bar = schedule.alpha_bar[low] ** (1 - share) * schedule.alpha_bar[high] ** share
    return Schedule(t, alpha_bar, np.append(1.0, alpha_bar[:-1]))
