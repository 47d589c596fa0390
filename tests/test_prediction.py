"""What the network predicts, compared with the formulas of EDM, of Salimans and Ho, and with Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_diffusion import ALPHA_BAR, FULL
from tests.test_solvers import best_eps, predictor
from tests.tiny import by_noise, in_float64
from vaedm_jax.diffusion.bound import chain_terms
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.loss import consistency_loss, noise_loss, training_loss
from vaedm_jax.diffusion.prediction import Eps, Residual, V
from vaedm_jax.diffusion.prediction import predictor as refiner
from vaedm_jax.diffusion.process import FORMULATIONS, Level, augment, nearest_step, noise_level, q_sample
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.schedule import linear_schedule, respace

SIGMA_R, SIGMA_DATA = 0.25, 0.66
RESIDUAL = Residual(SIGMA_R, SIGMA_DATA)
CASES = {
    "eps form1": (Eps(), "form1"),
    "eps form2": (Eps(), "form2"),
    "v uncond": (V(), "uncond"),
    "v form1": (V(), "form1"),
    "v form2": (V(), "form2"),
    "residual form1": (RESIDUAL, "form1"),
    "residual uncond": (RESIDUAL, "uncond"),
}
X_HAT = np.array([0.3, -0.5, 0.1]).reshape(3, 1, 1, 1)
T = np.array([0, 1, 400, 999])


@pytest.fixture(autouse=True)
def float64():
    with in_float64():
        yield


def edm(form, sigma):
    """Return c_skip, c_out and c_in of EDM's table 1, and the centre that c_in is about: x_hat, or 0."""
    s_r, centre = (SIGMA_R, X_HAT) if form != "uncond" else (SIGMA_DATA, 0 * X_HAT)
    root = (sigma**2 + s_r**2) ** 0.5
    return s_r**2 / root**2, sigma * s_r / root, 1 / root, centre


def formulas(target, form, u, x_0, eps, a, s):
    """Return what the network is shown of u, and what it should give, by the papers' own formulas."""
    shift = X_HAT if form == "form2" else 0.0
    if isinstance(target, Residual):
        c_skip, c_out, c_in, centre = edm(form, s / a)
        return c_in * (u / a - centre), (x_0 - centre - c_skip * (u / a - centre)) / c_out
    return u + shift, a * eps - s * x_0 if isinstance(target, V) else eps


@pytest.mark.parametrize("t", T)
@pytest.mark.parametrize("case", CASES)
def test_inputs_and_targets_are_those_of_the_papers_and_give_back_x_0_and_eps(case, t):
    target, form = CASES[case]
    rng, a, s = np.random.default_rng(0), np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
    x_0, eps = rng.uniform(-1, 1, X_HAT.shape), rng.standard_normal(X_HAT.shape)
    u, level = a * x_0 + s * eps, Level(jnp.full(3, t), a, s)
    want_shown, want = formulas(target, form, u, x_0, eps, a, s)
    asked = []

    def network(shown, t, x_hat):
        asked.append(shown)
        return jnp.asarray(want)

    predict = refiner(target, FORMULATIONS[form], network, jnp.asarray(X_HAT))
    got = predict(jnp.asarray(u), level)
    np.testing.assert_allclose(asked[0], want_shown, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.x_0, x_0, atol=1e-10)
    np.testing.assert_allclose(got.eps, eps, atol=1e-10)
    np.testing.assert_allclose(target.wanted(x_0, eps, level, predict.about), want, atol=1e-10)
    # An error in the output of the network is `gain` times as large in x_0.
    off = target.estimate(u, level, want + 1.0, predict.about).x_0 - got.x_0
    np.testing.assert_allclose(np.abs(off), target.gain(level, predict.about) * np.ones_like(x_0), rtol=1e-9)


def test_at_T_an_untrained_residual_gives_x_hat():
    level = Level(jnp.full(3, 999), np.sqrt(ALPHA_BAR[999]), np.sqrt(1 - ALPHA_BAR[999]))
    predict = refiner(RESIDUAL, FORMULATIONS["form1"], lambda x, t, x_hat: 0 * x, jnp.asarray(X_HAT))
    np.testing.assert_allclose(predict(jnp.ones((3, 1, 1, 1)), level).x_0, X_HAT, atol=1e-3)


# --- Gaussian data: x_0 ~ N(0.2, 0.3), as in the tests of the solvers; x_hat has no information

MEAN, VARIANCE = 0.2, 0.3
DATA = ((1.0, MEAN, VARIANCE),)


def ideal(target, form):
    """Return the refiner with the best network.

    The network recovers u from its input, computes E[x_0 | u] and E[eps | u] by Bayes' rule, and gives its target.
    """

    def network(shown, t, x_hat):
        alpha_bar = jnp.exp(jnp.interp(t, jnp.arange(1000.0), jnp.log(FULL.alpha_bar)))[:, None, None, None]
        a, s = jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
        u = shown - (X_HAT if form == "form2" else 0)
        if isinstance(target, Residual):
            _, _, c_in, centre = edm(form, s / a)
            u = a * (shown / c_in + centre)
        eps = best_eps(DATA, u, alpha_bar, jnp)
        x_0 = MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (u - a * MEAN)
        return formulas(target, form, u, x_0, eps, a, s)[1]

    return refiner(target, FORMULATIONS[form], network, jnp.asarray(X_HAT))


def noise_of(keys):
    return jax.random.split(jax.random.key(keys), 3)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ideal_networks_of_all_targets_run_the_same_chain(sampler, clip):
    chain = Chain(sampler, 6, clip=clip, churn=2.0)
    networks = [ideal(*CASES[case]) for case in ("v form2", "residual form1", "residual uncond")]
    predicts = [by_noise(predictor(DATA)), *networks]
    run = jax.jit(lambda keys: [run_chain(chain.arrays(FULL), predict, keys, (1, 1, 1)) for predict in predicts])
    want, *others = run(noise_of(0))
    for got in others:
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


def test_ideal_networks_of_all_variants_have_the_same_consistency_loss():
    x_0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 1, 1, 1)))
    sigma, eps = jnp.array([0.02, 0.5, 20.0]), jnp.array([0.3, -1.0, 0.8]).reshape(3, 1, 1, 1)
    for doublings in (0, 3):
        losses = [
            consistency_loss(FULL, ideal(*CASES[case]), x_0, sigma, eps, jnp.asarray(doublings))
            for case in ("v form1", "v form2", "v uncond")
        ]
        for other in losses[1:]:
            np.testing.assert_allclose(other, losses[0], rtol=1e-9)


def test_ideal_networks_of_all_targets_have_the_same_bound_and_noise_loss():
    x_0, t = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 1, 1, 1))), jnp.array([3, 500, 999])
    networks = [ideal(*case) for case in CASES.values()]
    some = respace(FULL, np.array([0, 10, 200, 999]))
    terms = jax.jit(lambda keys: [chain_terms(some, network, x_0, keys) for network in networks])(noise_of(1))
    losses = [noise_loss(FULL, network, x_0, t, jnp.ones_like(x_0)) for network in networks]
    for found in zip(*([*a, b] for a, b in zip(terms, losses, strict=True)), strict=True):
        for other in found[1:]:  # the tables of the bound are in float32
            np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-4)


# --- the loss


@pytest.mark.parametrize("case", CASES)
def test_min_snr_weighs_the_error_of_the_clean_image(case):
    """arXiv 2303.09556 weighs x_0 by min(SNR, gamma). This is min(SNR, gamma) / SNR on eps, and / (SNR + 1) on v."""
    target, form = CASES[case]
    rng, t, gamma = np.random.default_rng(1), jnp.array([5, 300, 900]), 5.0
    x_0, eps = (jnp.asarray(rng.standard_normal((3, 1, 1, 1))) for _ in range(2))
    predict = refiner(target, FORMULATIONS[form], lambda x, t, x_hat: jnp.sin(3 * x), jnp.asarray(X_HAT))
    level, u = noise_level(FULL, t, 3), q_sample(FULL, x_0, t, eps)
    snr = np.ravel(ALPHA_BAR[t] / (1 - ALPHA_BAR[t]))
    plain = np.ravel(training_loss(FULL, predict, x_0, t, eps))
    weighted = np.ravel(training_loss(FULL, predict, x_0, t, eps, gamma))
    error = np.ravel(predict(u, level).x_0 - x_0) ** 2
    np.testing.assert_allclose(weighted, np.minimum(snr, gamma) * error, rtol=1e-5)
    if not isinstance(target, Residual):
        share = np.minimum(snr, gamma) / (snr + isinstance(target, V))
        np.testing.assert_allclose(weighted, share * plain, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_min_snr_is_finite_where_the_square_of_the_snr_leaves_float32(case):
    target, form = CASES[case]
    full, zeros = linear_schedule(1000, 1e-4, 0.3), np.zeros((3, 1, 1, 1), np.float32)
    predict = refiner(target, FORMULATIONS[form], lambda x, t, x_hat: 0 * x, jnp.asarray(X_HAT, jnp.float32))
    loss = training_loss(full, predict, zeros, np.array([0, 500, 999], np.int32), zeros + 1, 5.0)
    assert full.alpha_bar[-1] < 1e-60 and loss.dtype == jnp.float32 and np.isfinite(loss).all()


@pytest.mark.parametrize("case", CASES)
def test_the_training_loss_is_0_if_the_network_gives_its_target(case):
    target, form = CASES[case]
    x_0, t = jnp.full((3, 1, 1, 1), MEAN), jnp.array([5, 300, 999])
    eps = jnp.asarray(np.random.default_rng(1).standard_normal((3, 1, 1, 1)))
    level = noise_level(FULL, t, 3)
    u = q_sample(FULL, x_0, t, eps)
    want = formulas(
        target,
        form,
        np.asarray(u),
        np.asarray(x_0),
        np.asarray(eps),
        level.sqrt_alpha_bar,
        level.sqrt_one_minus_alpha_bar,
    )[1]
    predict = refiner(target, FORMULATIONS[form], lambda *_: want, jnp.asarray(X_HAT))
    np.testing.assert_allclose(training_loss(FULL, predict, x_0, t, eps), np.zeros(3), atol=1e-8)


def test_if_x_hat_is_blank_the_residual_is_about_0_with_the_deviation_of_the_data():
    blank, shown = np.array([False, True, False]), jnp.asarray(X_HAT * [[[[1]]], [[[0]]], [[[1]]]])
    u, level = jnp.ones((3, 1, 1, 1)), noise_level(FULL, 500, 3)

    def network(x, t, x_hat):
        return jnp.tanh(x)

    mixed = refiner(RESIDUAL, FORMULATIONS["form1"], network, shown, blank=jnp.asarray(blank))(u, level)
    whole = refiner(RESIDUAL, FORMULATIONS["form1"], network, jnp.asarray(X_HAT))(u, level)
    plain = refiner(RESIDUAL, FORMULATIONS["uncond"], network)(u, level)
    for got, a, b in zip(mixed, whole, plain, strict=True):
        np.testing.assert_allclose(got, np.where(blank[:, None, None, None], b, a), rtol=1e-12)


def test_nearest_step_is_the_nearest_in_log_sigma():
    log_sigma = np.log(np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR))
    asked = np.random.default_rng(0).normal(-1, 3, 200)
    want = np.abs(asked[:, None] - log_sigma).argmin(axis=1)
    np.testing.assert_array_equal(nearest_step(FULL, jnp.asarray(asked)), want)


def test_x_hat_is_noised_by_the_first_k_steps_of_the_chain():
    schedule, x_hat, noise = linear_schedule(10), jnp.asarray(X_HAT), jnp.ones((3, 1, 1, 1))
    got = np.asarray(augment(schedule, x_hat, jnp.array([0, 1, 10]), noise))
    np.testing.assert_array_equal(got[0], X_HAT[0])
    left = np.cumprod(1 - np.linspace(1e-4, 0.02, 10))[[0, 9]][:, None, None, None]
    np.testing.assert_allclose(got[1:], np.sqrt(left) * X_HAT[1:] + np.sqrt(1 - left), rtol=1e-6)
