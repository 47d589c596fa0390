"""Scores of sets of features, in float64: the figures that the field compares by."""

from typing import NamedTuple

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), which is FID for Inception's features (arXiv 1706.08500).

    The trace of the root is that of (R C_b R)^(1/2) with R = C_a^(1/2), whose eigenvalues are real.
    """
    values, axes = np.linalg.eigh(a.covariance)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    apart = a.mean - b.mean
    return float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared)


def kernel_distance(
    a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID (arXiv 1801.01401): the unbiased squared MMD of the kernel (x y / D + 1)^3, and its standard error.

    The mean over random subsets, which are those of torch-fidelity. Their deviation over sqrt(subsets) would be too
    small, since they share features: the error is that of disjoint blocks instead.

    Args:
      a, b: features [N, D] of the samples and of the reference.
      size: features a subset; at most as many as the smaller set has.
    """
    size = min(size, len(a), len(b))
    if size < 2:
        raise UserError(f"a kernel distance of {len(a)} and {len(b)} images: it needs two of each at least")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        chosen_a = a[rng.choice(len(a), size, replace=False)]
        values.append(mmd(chosen_a, b[rng.choice(len(b), size, replace=False)]))
    return float(np.mean(values)), block_error(a, b, seed)


def block_error(a: np.ndarray, b: np.ndarray, seed: int, blocks: int = 10) -> float:
    """The standard error of the MMD of all features, from disjoint blocks of both; NaN where they are too few.

    It is that of the blocks' mean, which varies as the MMD of all features does where the sets differ (as 1 / N), and
    more where they are alike (there the latter falls faster): it errs on the safe side.
    """
    n = min(len(a), len(b)) // blocks
    if n < 2:
        return float("nan")
    rng = np.random.RandomState(seed)
    parts = (x[rng.permutation(len(x))[: n * blocks]].reshape(blocks, n, -1) for x in (a, b))
    return float(np.std([mmd(*pair) for pair in zip(*parts, strict=True)], ddof=1) / np.sqrt(blocks))


def mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of the polynomial kernel, from equal numbers."""
    a, b, n = np.asarray(a, np.float64), np.asarray(b, np.float64), len(a)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)
    return float(within / (n * (n - 1)) - 2 * ab.sum() / n**2)


class Entropies(NamedTuple):
    """What the Inception Score needs, over parts of the images: counts [P], sums of p [P, K] and of p log p [P]."""

    n: np.ndarray
    p: np.ndarray
    p_log_p: np.ndarray

    @classmethod
    def empty(cls, classes: int, parts: int = 10) -> "Entropies":
        return cls(np.zeros(parts), np.zeros((parts, classes)), np.zeros(parts))

    def add(self, logits: np.ndarray, part: np.ndarray | None = None) -> "Entropies":
        """With a batch [B, K] more; `part` [B] says which part each belongs to, by default one after the other."""
        parts = len(self.n)
        part = (np.arange(len(logits)) + int(self.n.sum())) % parts if part is None else part
        log_p = np.asarray(logits, np.float64)
        log_p = log_p - log_p.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        mine = np.eye(parts)[part].T
        p = np.exp(log_p)
        return Entropies(self.n + mine.sum(1), self.p + mine @ p, self.p_log_p + mine @ (p * log_p).sum(axis=1))

    def score(self) -> tuple[float, float]:
        """exp E KL(p(y | x) || p(y)) (arXiv 1606.03498): its mean and deviation over the parts that have images."""
        there = self.n > 0
        n, p, p_log_p = self.n[there], self.p[there] / self.n[there, None], self.p_log_p[there]
        scores = np.exp(p_log_p / n - (p * np.log(np.maximum(p, 1e-300))).sum(axis=1))
        return float(scores.mean()), float(scores.std())


def inception_score(logits: np.ndarray, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """The Inception Score of logits [N, K] and its deviation over `splits` parts, which are those of torch-fidelity."""
    n = len(logits)
    bounds = [i * n // splits for i in range(splits + 1)]
    part = np.repeat(np.arange(splits), np.diff(bounds))
    return (
        Entropies.empty(logits.shape[1], splits).add(logits[np.random.RandomState(seed).permutation(n)], part).score()
    )


def precision_recall(samples: np.ndarray, reference: np.ndarray, k: int = 3, chunk: int = 2048) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991): the share of either set within the other's k-nearest balls."""
    k = min(k, len(samples) - 1, len(reference) - 1)
    if k < 1:
        raise UserError(f"precision of {len(samples)} against {len(reference)} images: it needs two of each at least")
    return covered(samples, reference, k, chunk), covered(reference, samples, k, chunk)


def covered(points: np.ndarray, centres: np.ndarray, k: int, chunk: int) -> float:
    """The share of points that lie within the ball of some centre, which reaches to its k-th nearest other centre."""

    def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.maximum((x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)[None], 0)

    def parts(x: np.ndarray) -> list[np.ndarray]:
        return [x[i : i + chunk] for i in range(0, len(x), chunk)]

    radius = np.concatenate([np.partition(squared(part, centres), k, axis=1)[:, k] for part in parts(centres)])
    return float(np.concatenate([(squared(part, centres) <= radius).any(axis=1) for part in parts(points)]).mean())
