"""Mean and covariance of features, accumulated batch by batch in float64."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """The moments of the features of images.

    Attributes:
      n: the number of images.
      mean: [D], the mean of the features.
      scatter: [D, D], the sum of the outer products of their deviations from the mean.
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, D: int) -> "Moments":
        """Return the moments of no images, for D features."""
        return cls(0, np.zeros(D), np.zeros((D, D)))

    def add(self, features: np.ndarray) -> "Moments":
        """Return the moments with features [B, D] added."""
        batch = np.asarray(features, np.float64)
        if not len(batch):
            return self
        mean = batch.mean(axis=0)
        return self.merge(Moments(len(batch), mean, (batch - mean).T @ (batch - mean)))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets, by Chan, Golub and LeVeque (1979).

        The method has no sum of squares that could cancel.
        """
        total = self.n + other.n
        if not total:
            return self
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / total)
        return Moments(total, self.mean + apart * (other.n / total), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate of the covariance, as in the published code of FID."""
        return self.scatter / (self.n - 1)
