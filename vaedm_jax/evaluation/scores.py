"""Scores of sets of features, in float64: Frechet distance, KID, Inception Score, precision and recall."""

from typing import NamedTuple

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the Frechet distance of two Gaussians, which is FID for Inception's features (arXiv 1706.08500).

    It is |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The trace of the root is computed as that of
    (R C_b R)^(1/2) with R = C_a^(1/2), whose eigenvalues are real.
    """
    values, axes = np.linalg.eigh(a.covariance)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    apart = a.mean - b.mean
    return float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared)


def kernel_distance(
    a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Return KID (arXiv 1801.01401) and its standard error.

    KID is the unbiased squared MMD of the kernel (x y / D + 1)^3. It is averaged over random subsets, which are those
    of torch-fidelity. The subsets share features, so their deviation over sqrt(subsets) would be too small an error.
    The error comes from disjoint blocks instead; see `block_error`.

    Args:
      a, b: features [N, D] of the samples and of the reference.
      size: the number of features in a subset, reduced to the size of the smaller set if necessary.

    Raises:
      UserError: a set has fewer than two features.
    """
    size = min(size, len(a), len(b))
    if size < 2:
        raise UserError(f"kernel distance of {len(a)} and {len(b)} images: it needs at least 2 of each")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        chosen_a = a[rng.choice(len(a), size, replace=False)]
        values.append(mmd(chosen_a, b[rng.choice(len(b), size, replace=False)]))
    return float(np.mean(values)), block_error(a, b, seed)


def block_error(a: np.ndarray, b: np.ndarray, seed: int, blocks: int = 10) -> float:
    """Return the standard error of the MMD of all features, from disjoint blocks of both sets.

    It is NaN if there are too few features. Otherwise it is the standard error of the mean over the blocks. If the sets
    differ, this mean varies as much as the MMD of all features (as 1 / N). If they are alike, it varies more, since the
    variance of the MMD falls faster. So the estimate is on the safe side.
    """
    n = min(len(a), len(b)) // blocks
    if n < 2:
        return float("nan")
    rng = np.random.RandomState(seed)
    parts = (x[rng.permutation(len(x))[: n * blocks]].reshape(blocks, n, -1) for x in (a, b))
    return float(np.std([mmd(*pair) for pair in zip(*parts, strict=True)], ddof=1) / np.sqrt(blocks))


def mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased estimate of the squared MMD of the polynomial kernel, for two sets of equal size [N, D]."""
    a, b, n = np.asarray(a, np.float64), np.asarray(b, np.float64), len(a)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)
    return float(within / (n * (n - 1)) - 2 * ab.sum() / n**2)


class Entropies(NamedTuple):
    """The sums that give the Inception Score, for each of P parts of the images.

    Attributes:
      n: [P], the number of images.
      p: [P, K], the sum of p(y | x).
      p_log_p: [P], the sum of p log p over images and classes.
    """

    n: np.ndarray
    p: np.ndarray
    p_log_p: np.ndarray

    @classmethod
    def empty(cls, classes: int, parts: int = 10) -> "Entropies":
        """Return the sums of no images."""
        return cls(np.zeros(parts), np.zeros((parts, classes)), np.zeros(parts))

    def add(self, logits: np.ndarray, part: np.ndarray | None = None) -> "Entropies":
        """Return the sums with logits [B, K] added.

        Args:
          part: [B], the part that each image belongs to; by default images go to the parts in turn.
        """
        parts = len(self.n)
        part = (np.arange(len(logits)) + int(self.n.sum())) % parts if part is None else part
        log_p = np.asarray(logits, np.float64)
        log_p = log_p - log_p.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        mine = np.eye(parts)[part].T
        p = np.exp(log_p)
        return Entropies(self.n + mine.sum(1), self.p + mine @ p, self.p_log_p + mine @ (p * log_p).sum(axis=1))

    def score(self) -> tuple[float, float]:
        """Return the mean and the deviation of the Inception Score over the parts that have images.

        The score is exp E KL(p(y | x) || p(y)) (arXiv 1606.03498).
        """
        there = self.n > 0
        n, p, p_log_p = self.n[there], self.p[there] / self.n[there, None], self.p_log_p[there]
        scores = np.exp(p_log_p / n - (p * np.log(np.maximum(p, 1e-300))).sum(axis=1))
        return float(scores.mean()), float(scores.std())


def inception_score(logits: np.ndarray, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Return the Inception Score of logits [N, K] and its deviation over `splits` parts, those of torch-fidelity."""
    n = len(logits)
    bounds = [i * n // splits for i in range(splits + 1)]
    part = np.repeat(np.arange(splits), np.diff(bounds))
    return (
        Entropies.empty(logits.shape[1], splits).add(logits[np.random.RandomState(seed).permutation(n)], part).score()
    )


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3, chunk: int = 2048) -> tuple[float, float]:
    """Return improved precision and recall (arXiv 1904.06991) of features [N, D].

    Precision is the share of the samples that lie within the k-nearest-neighbour balls of the reference. Recall is the
    share of the reference within those of the samples.

    Raises:
      UserError: a set has fewer than two features.
    """
    k = min(k, len(samples) - 1, len(reference) - 1)
    if k < 1:
        raise UserError(
            f"precision and recall of {len(samples)} and {len(reference)} images: they need at least 2 of each"
        )
    return coverage(samples, reference, k, chunk), coverage(reference, samples, k, chunk)


def coverage(points: np.ndarray, centres: np.ndarray, k: int, chunk: int) -> float:
    """Return the share of points within the ball of any centre. A ball reaches to the k-th nearest other centre."""

    def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.maximum((x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)[None], 0)

    def parts(x: np.ndarray) -> list[np.ndarray]:
        return [x[i : i + chunk] for i in range(0, len(x), chunk)]

    radius = np.concatenate([np.partition(squared(part, centres), k, axis=1)[:, k] for part in parts(centres)])
    return float(np.concatenate([(squared(part, centres) <= radius).any(axis=1) for part in parts(points)]).mean())
