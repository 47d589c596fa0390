"""Gaussian cases that are known in closed form: marginals, posteriors, the noise, and chains for Gaussian data.

For data N(m, C), the best prediction of the noise is linear. A reverse chain without clipping is then an affine map of
its start and of its noise, and its samples are Gaussian. The tests measure that map with unit inputs. They compare it
with the map that follows from Bayes' rule, computed in NumPy.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests.test_diffusion import (
    ALPHA_BAR,
    BETA,
    FULL,
    SHAPE,
    T,
    close,
    keys,
    normal,
    properties,
    respaced,
    silent,
    visited,
)
from tests.tiny import by_noise
from vaedm_jax.diffusion import reverse, samplers, spacing
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import posterior_mean, q_sample
from vaedm_jax.diffusion.schedule import linear_schedule, respace


def bayes(alpha_bar_s, alpha_bar_t):
    """Return q(u_s | u_t, x_0) for s before t: the coefficients of x_0 and of u_t in its mean, and its variance.

    It is proportional to the prior N(u_s; sqrt(alpha_bar_s) x_0, 1 - alpha_bar_s) times the likelihood
    N(u_t; sqrt(alpha) u_s, 1 - alpha). Their precisions add up and are the weights of their means.
    """
    if alpha_bar_s == 1:
        return 1.0, 0.0, 0.0
    alpha = alpha_bar_t / alpha_bar_s
    prior, likelihood = 1 / (1 - alpha_bar_s), alpha / (1 - alpha)
    total = prior + likelihood
    return prior * np.sqrt(alpha_bar_s) / total, likelihood / np.sqrt(alpha) / total, 1 / total


def test_iterating_equations_13_and_14_gives_equation_15():
    x_0, x_hat = normal(0, 1, *SHAPE), normal(1, 1, *SHAPE)
    mean, variance = np.sqrt(1 - BETA[0]) * x_0 + x_hat, BETA[0]  # eq. 14
    for t in range(1, T + 1):  # from 1, as in the paper
        if t > 1:  # eq. 13
            root = np.sqrt(1 - BETA[t - 1])
            mean, variance = root * mean + (1 - root) * x_hat, root**2 * variance + BETA[t - 1]
        if t in (1, 2, 3, 10, 100, 500, 1000):
            close(q_sample(FULL, x_0, t - 1, 0 * x_0) + x_hat, mean)
            close(q_sample(FULL, 0 * x_0, t - 1, 1 + 0 * x_0) ** 2, variance)


@properties(50)
@given(respaced())
def test_the_posterior_is_that_of_bayes_rule(chain):
    alpha_bar, schedule = chain
    np.testing.assert_allclose(schedule.alpha_bar, alpha_bar, rtol=1e-12)
    want = np.array([bayes(s, t) for s, t in zip([1.0, *alpha_bar[:-1]], alpha_bar, strict=True)]).T
    np.testing.assert_allclose(schedule.posterior_coefficients(), want[:2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(schedule.posterior_variance, want[2], rtol=1e-9, atol=1e-12)

    x_0, u_t, index = normal(0, len(alpha_bar), *SHAPE), normal(1, len(alpha_bar), *SHAPE), np.arange(len(alpha_bar))
    mean = want[0][:, None, None, None] * x_0 + want[1][:, None, None, None] * u_t
    close(posterior_mean(schedule, x_0, u_t, index), mean, 1e-6)


def test_marginals_and_posteriors_are_those_of_the_simulated_chain():
    """The moments are those of 200,000 runs of u_t <- sqrt(1 - beta_t) u_{t-1} + sqrt(beta_t) eps, at some steps."""
    n, x_0, beta, steps = 200_000, 1.5, np.linspace(0.02, 0.4, 12), np.array([0, 3, 4, 8, 11])
    schedule = respace(linear_schedule(12, 0.02, 0.4), steps)
    rng, u, runs = np.random.default_rng(0), np.full(n, x_0), []
    for b in beta:
        u = np.sqrt(1 - b) * u + np.sqrt(b) * rng.standard_normal(n)
        runs.append(u)
    runs = np.array(runs)[steps]
    tolerance = 6 / np.sqrt(n)

    clean, index = np.full((5, 1, 1, 1), x_0), np.arange(5)
    mean = q_sample(schedule, clean, index, np.zeros_like(clean)).ravel()
    scale = q_sample(schedule, 0 * clean, index, np.ones_like(clean)).ravel()
    np.testing.assert_allclose(mean, runs.mean(axis=1), atol=tolerance)
    np.testing.assert_allclose(scale**2, runs.var(axis=1), atol=2 * tolerance)

    of_x_0, of_u_t = schedule.posterior_coefficients()
    for i in range(1, 5):  # the regression of u_{t-1} on u_t, for a fixed x_0
        before, after = runs[i - 1], runs[i]
        slope = np.cov(before, after)[0, 1] / after.var()
        assert of_u_t[i] == pytest.approx(slope, abs=tolerance)
        assert of_x_0[i] * x_0 == pytest.approx(before.mean() - slope * after.mean(), abs=3 * tolerance)
        assert schedule.posterior_variance[i] == pytest.approx((before - slope * after).var(), abs=2 * tolerance)


def test_all_noise_is_standard_normal_and_independent():
    """If no noise is predicted, the mean of a DDPM step is u_t / sqrt(alpha_t). The rest is the noise of the step."""
    shape, n = (32, 64, 2), 5
    steps, u = visited(Chain(steps=n, clip=False), silent, keys(3), shape)
    noise = [*u[0]]
    for j in range(n - 1):
        t, s = ALPHA_BAR[int(steps[j])], ALPHA_BAR[int(steps[j + 1])]
        noise += [*(u[j + 1] - u[j] / np.sqrt(t / s)) / np.sqrt(bayes(s, t)[2])]
    noise = np.stack(noise).reshape(3 * n, -1)
    bound = 5 / np.sqrt(noise.shape[1])
    assert np.abs(noise.mean(axis=1)).max() < bound and np.abs(noise.std(axis=1) - 1).max() < bound
    assert np.abs(np.corrcoef(noise) - np.eye(3 * n)).max() < bound


# --- Gaussian data of four pixels

D = 4
MEAN = np.array([0.4, -0.3, 0.1, 0.6])
AXES = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
VARIANCES = np.array([0.01, 0.1, 0.4, 1.5])
COVARIANCE = AXES * VARIANCES @ AXES.T

SAMPLERS = {
    "fixedsmall": lambda chain: samplers.ddpm(chain, "fixedsmall"),
    "fixedlarge": lambda chain: samplers.ddpm(chain, "fixedlarge"),
    "eta 0": lambda chain: samplers.ddim(chain, 0.0),
    "eta 0.5": lambda chain: samplers.ddim(chain, 0.5),
    "eta 1": lambda chain: samplers.ddim(chain, 1.0),
}


def best_predictor(mean, axes, variances):
    """Return the function E[eps | u_t] for x_0 ~ N(mean, axes diag(variances) axes').

    The columns of `axes` are also the eigenvectors of the covariance of u_t.
    """
    gain = np.sqrt(1 - ALPHA_BAR)[:, None] / (ALPHA_BAR[:, None] * variances + 1 - ALPHA_BAR[:, None])
    gain, centre, axes = (jnp.asarray(v, jnp.float32) for v in (gain, np.sqrt(ALPHA_BAR)[:, None] * mean, axes))

    def predict_noise(u, t):
        t = t.astype(int)
        along = jnp.dot(u.reshape(-1, D) - centre[t], axes, precision="highest") * gain[t]
        return jnp.dot(along, axes.T, precision="highest").reshape(u.shape)

    return predict_noise


def read_off(table, predict_noise):
    """Measure the affine map that `reverse` computes, from its values at zero and at unit inputs.

    Returns:
      The value at zero [D], and the matrix [D, D + N D]. Its columns belong to the start and to the noise of each step.
    """
    n = len(table.t)
    inputs = np.concatenate([np.zeros((1, D + n * D)), np.eye(D + n * D)]).astype(np.float32)
    start = inputs[:, :D].reshape(-1, 2, 2, 1)
    noise = jnp.asarray(inputs[:, D:].reshape(-1, n, 2, 2, 1).swapaxes(0, 1))
    run = jax.jit(
        lambda u: reverse.reverse(by_noise(predict_noise), table.trimmed(), u, lambda j: noise[j], clip=False)
    )
    out = np.asarray(run(start), np.float64).reshape(-1, D)
    return out[0], (out[1:] - out[0]).T


def first_principles(steps, sampler):
    """Compute the same map step by step, from p(u_s | u_t) = q(u_s | u_t, x_0 = E[x_0 | u_t])."""
    mean, factor = np.zeros(D), np.eye(D)
    for t, s in zip(ALPHA_BAR[steps][::-1], [*ALPHA_BAR[steps][-2::-1], 1.0], strict=True):
        of_x_0, of_u_t, variance = bayes(s, t)
        if sampler.startswith("eta"):
            # The variance may be any, if the mean keeps q(u_s | x_0). This gives the coefficients of the mean.
            variance *= float(sampler.split()[1]) ** 2
            of_u_t = np.sqrt((1 - s - variance) / (1 - t))
            of_x_0 = np.sqrt(s) - of_u_t * np.sqrt(t)
        if sampler == "fixedlarge":
            variance = 1 - t / s if s < 1 else 0.0
        # E[x_0 | u_t] is linear in u_t, with this matrix.
        gain = np.sqrt(t) * COVARIANCE @ np.linalg.inv(t * COVARIANCE + (1 - t) * np.eye(D))
        mean = of_x_0 * (MEAN + gain @ (mean - np.sqrt(t) * MEAN)) + of_u_t * mean
        factor = np.hstack([(of_x_0 * gain + of_u_t * np.eye(D)) @ factor, np.sqrt(variance) * np.eye(D)])
    return mean, factor


@cache
def chain_map(sampler, n):
    return read_off(SAMPLERS[sampler](respace(FULL, spacing.even(T, n))), best_predictor(MEAN, AXES, VARIANCES))


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_chain_is_the_affine_map_that_bayes_rule_gives(sampler, n):
    (mean, factor), (want_mean, want_factor) = chain_map(sampler, n), first_principles(spacing.even(T, n), sampler)
    close(mean, want_mean)
    close(factor, want_factor)
    close(factor @ factor.T, want_factor @ want_factor.T)


@pytest.mark.parametrize("sampler", ["fixedsmall", "fixedlarge", "eta 0", "eta 1"])
def test_more_steps_bring_the_samples_closer_to_the_data(sampler):
    means, factors = zip(*(chain_map(sampler, n) for n in (10, 25, 50, 100, 250)), strict=True)
    errors = [np.linalg.norm(factor @ factor.T - COVARIANCE) for factor in factors]
    assert (np.diff(errors) < 0).all() and errors[-1] < 0.05 * np.linalg.norm(COVARIANCE)
    np.testing.assert_allclose(means, np.tile(MEAN, (5, 1)), atol=5e-3)  # DDIM keeps the error of a start at N(0, I)


def test_fixedlarge_is_exact_for_white_data():
    """For data N(0, I), every reverse step keeps N(0, I), for any steps. Only the last step omits its noise."""
    steps = spacing.quadratic(T, 12)
    table = samplers.ddpm(respace(FULL, steps), "fixedlarge")
    mean, factor = read_off(table, best_predictor(np.zeros(D), np.eye(D), np.ones(D)))
    close(factor @ factor.T, ALPHA_BAR[0] * np.eye(D))
    np.testing.assert_array_equal(mean, np.zeros(D))
