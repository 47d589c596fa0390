"""Distances between sets of features equal those of torch-fidelity and closed forms, however they are batched."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vaedm_jax.errors import UserError
from vaedm_jax.evaluation import scores, summary
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.summary import Summary

GOLDEN = np.load(Path(__file__).parent / "golden_scores" / "torch_fidelity.npz")


def moments(features, batch=1000):
    total = Moments.empty(features.shape[1])
    for i in range(0, len(features), batch):
        total = total.add(features[i : i + batch])
    return total


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_memory_does_not_grow_with_the_images_that_are_scored(monkeypatch):
    monkeypatch.setattr(summary, "KEPT", 50)
    total, sizes = Summary.empty(4, 3), []
    for _ in range(30):
        total = total.add(normal(0, 8, 4), normal(1, 8, 3))
        sizes.append(sum(np.asarray(a).nbytes for a in jax.tree.leaves(total)))
    assert total.moments.n == 240 and len(total.features) == 50
    assert len(set(sizes[6:])) == 1


def test_scores_are_those_of_torch_fidelity():
    a, b = GOLDEN["a"], GOLDEN["b"]
    assert scores.frechet_distance(moments(a), moments(b)) == pytest.approx(
        float(GOLDEN["frechet_inception_distance"]), rel=1e-6
    )
    kid, _ = scores.kernel_distance(a, b, subsets=20, size=100)
    assert kid == pytest.approx(float(GOLDEN["kernel_inception_distance_mean"]), rel=1e-6)
    assert scores.precision_recall(a, b) == pytest.approx((float(GOLDEN["precision"]), float(GOLDEN["recall"])))
    assert scores.inception_score(GOLDEN["logits"]) == pytest.approx(
        (float(GOLDEN["inception_score_mean"]), float(GOLDEN["inception_score_std"])), rel=1e-6
    )


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_moments_do_not_depend_on_the_batches_nor_lose_digits_to_a_large_mean(batch):
    features = normal(0, 100, 5) + 1e6
    got = moments(features, batch)
    np.testing.assert_allclose(got.mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(got.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-8)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    mean, s, t = np.array([1.0, -2.0, 0.5]), np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
    a, b = Moments(11, 0 * mean, 10 * np.diag(s)), Moments(11, mean, 10 * np.diag(t))
    want = mean @ mean + np.sum((np.sqrt(s) - np.sqrt(t)) ** 2)
    assert scores.frechet_distance(a, b) == pytest.approx(want)
    assert scores.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_is_honest():
    """If the sets are alike, the mean over draws is about 0, and the stated error is at least the true one."""
    alike = [scores.kernel_distance(normal(i, 200, 6), normal(1000 + i, 200, 6), 1, 200) for i in range(60)]
    apart = [scores.kernel_distance(normal(i, 200, 6), normal(1000 + i, 200, 6) + 1, 1, 200) for i in range(60)]
    for found, least, most in ((alike, 1.0, 8.0), (apart, 0.75, 1.6)):
        values, errors = np.array(found).T
        assert least < errors.mean() / values.std() < most
    values = np.array(alike)[:, 0]
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
    assert np.array(apart)[:, 0].min() > 0.1


def test_precision_falls_with_samples_off_the_data_and_recall_with_missing_modes():
    data = np.concatenate([normal(0, 100, 2), normal(1, 100, 2) + 20])
    one_mode = normal(2, 100, 2)
    precision, recall = scores.precision_recall(one_mode, data)
    assert precision > 0.8 and 0.3 < recall < 0.55
    half_off = np.concatenate([normal(3, 50, 2), normal(4, 50, 2) - 50])
    precision, _ = scores.precision_recall(half_off, data)
    assert 0.3 < precision < 0.55
    chunked = scores.precision_recall(one_mode, data, chunk=17)
    assert chunked == scores.precision_recall(one_mode, data)


def test_too_few_images_are_refused():
    for score in (scores.kernel_distance, scores.precision_recall):
        with pytest.raises(UserError, match="at least 2 of each"):
            score(normal(0, 1, 3), normal(1, 5, 3))


def test_the_bias_of_the_frechet_distance_needs_two_images_in_each_half():
    data = Summary.empty(2).add(normal(0, 50, 2))
    few, enough = (summary.compare(Summary.empty(2).add(normal(1, n, 2)), data) for n in (3, 4))
    assert few["fd"] is not None and few["fd_bias"] is None
    assert np.isfinite(enough["fd_bias"])
