"""The shares of the variance of features that z and x_T explain."""

from typing import NamedTuple

import numpy as np


class Shares(NamedTuple):
    """The shares of the variance that z, x_T, and their interaction explain. Their sum is 1."""

    z: float
    x_T: float
    both: float


def shares(features: np.ndarray) -> Shares:
    """Return the shares for features [K, M, D] of images of K z, each with the same M x_T.

    They are the variance components of a two-way table with random effects and without replication, summed over the D
    features (Searle, Casella and McCulloch 1992, section 4.7). The components are estimated without bias, so a small
    share may be negative.
    """
    K, M, _ = features.shape
    of_z, of_x = features.mean(axis=1), features.mean(axis=0)
    mean = of_z.mean(axis=0)
    rest = features - of_z[:, None] - of_x[None] + mean
    between_z = M * np.sum((of_z - mean) ** 2) / (K - 1)
    between_x = K * np.sum((of_x - mean) ** 2) / (M - 1)
    within = np.sum(rest**2) / ((K - 1) * (M - 1))
    parts = np.array([(between_z - within) / M, (between_x - within) / K, within])
    return Shares(*(float(p) for p in parts / parts.sum()))


def shares_and_errors(features: np.ndarray) -> tuple[Shares, Shares]:
    """Return the shares and their standard errors. The jackknife leaves out each z, then each x_T, in turn."""
    features = np.asarray(features, np.float64)
    variance = np.zeros(3)
    for axis in (0, 1):
        n = features.shape[axis]
        left = np.array([shares(np.delete(features, i, axis)) for i in range(n)])
        variance += (n - 1) / n * np.sum((left - left.mean(axis=0)) ** 2, axis=0)
    return shares(features), Shares(*(float(e) for e in np.sqrt(variance)))
