"""Mean and covariance of features, accumulated batch by batch in float64."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of `n` features of D numbers: their mean [D], and `scatter` [D, D], the sum of the outer products about it."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, D: int) -> "Moments":
        return cls(0, np.zeros(D), np.zeros((D, D)))

    def add(self, features: np.ndarray) -> "Moments":
        """With a batch [B, D] more."""
        batch = np.asarray(features, np.float64)
        if not len(batch):
            return self
        mean = batch.mean(axis=0)
        return self.merge(Moments(len(batch), mean, (batch - mean).T @ (batch - mean)))

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets (Chan, Golub and LeVeque, 1979: no sum of squares that cancels)."""
        total = self.n + other.n
        if not total:
            return self
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / total)
        return Moments(total, self.mean + apart * (other.n / total), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate, as in FID's own code."""
        return self.scatter / (self.n - 1)
