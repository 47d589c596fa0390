"""The bound on log p, against closed forms and the true value on Gaussian data, and for every variant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tests.tiny import FIVE_STEPS, by_noise, random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.diffusion.bound import HALF, chain_terms, level_log_likelihood
from vaedm_jax.diffusion.prediction import Eps, predictor
from vaedm_jax.diffusion.process import FORMULATIONS, at
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.errors import UserError
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.stages import ddpm_stage, vae_stage

S = 0.2  # standard deviation of the data: every pixel is N(0, S^2)
D = 2 * 2 * 3
SHORT = linear_schedule(12, 0.05, 0.4)


def left_over(schedule):
    """Return the variance of x_0 given u_t, [T]."""
    rest = 1 - schedule.alpha_bar
    return S**2 * rest / (schedule.alpha_bar * S**2 + rest)


def ideal(schedule):
    """Return the network that predicts the expected noise given u_t."""
    share = np.sqrt(1 - schedule.alpha_bar) / (schedule.alpha_bar * S**2 + 1 - schedule.alpha_bar)
    return lambda u_t, t: at(share, t[0]) * u_t


def draws(n):
    x_0 = S * np.random.default_rng(0).standard_normal((n, 2, 2, 3)).astype(np.float32)
    return jnp.asarray(x_0), jax.random.split(jax.random.key(1), n)


@pytest.mark.parametrize("variance", ["fixedsmall", "fixedlarge"])
def test_every_term_has_its_closed_form_on_gaussian_data(variance):
    n, schedule = 20_000, SHORT
    found = jax.jit(lambda x, k: chain_terms(schedule, by_noise(ideal(schedule)), x, k, variance, clip=False))(
        *draws(n)
    )
    alpha_bar, rest = schedule.alpha_bar[-1], 1 - schedule.alpha_bar[-1]
    prior = 0.5 * D * (alpha_bar * S**2 + rest - 1 - np.log(rest))
    true, model = schedule.posterior_variance[1:], np.exp(schedule.log_variance(variance)[1:])
    missed = schedule.posterior_coefficients()[0][1:] ** 2 * left_over(schedule)[1:]
    steps = 0.5 * D * (np.log(model / true) + (true + missed) / model - 1)
    first = np.exp(schedule.log_variance(variance)[0])
    decoder = D * (0.5 * np.log(2 * np.pi * first) + left_over(schedule)[0] / (2 * first) - np.log(2 * HALF))
    for got, want in ((found.prior[None], prior), (found.steps, steps), (found.decoder[None], decoder)):
        mean, error = np.mean(got, axis=1), np.std(got, axis=1) / np.sqrt(n)
        assert np.all(np.abs(mean - want) < 4 * error + 1e-5 * np.abs(want))
        assert np.all(error < 0.02 * np.abs(want))


def test_the_bound_lies_just_above_the_truth():
    schedule = linear_schedule()
    x_0, keys = draws(512)
    terms = jax.jit(lambda x, k: chain_terms(schedule, by_noise(ideal(schedule)), x, k, "fixedlarge", clip=False))(
        x_0, keys
    )
    bound = np.array(terms.prior + terms.steps.sum(0) + terms.decoder)
    # Subtracting -log p of each image leaves less scatter in the mean.
    excess = bound + level_log_likelihood(x_0, jnp.zeros_like(x_0), jnp.full_like(x_0, 2 * np.log(S)))
    truth = D * (np.log(S * np.sqrt(2 * np.pi * np.e)) - np.log(2 * HALF))
    error = np.std(excess) / np.sqrt(len(excess))
    assert 0 < np.mean(excess) < 0.05 * truth and error < 0.01 * truth


def test_the_probabilities_of_the_levels_sum_to_one_and_agree_with_scipy():
    levels = 2 * np.arange(256) / 255 - 1
    for mean, deviation in ((0.1, 0.3), (-0.9, 0.01), (1.4, 0.2)):
        x = jnp.asarray(levels, jnp.float32).reshape(-1, 1, 1, 1)
        got = np.array(level_log_likelihood(x, jnp.full_like(x, mean), jnp.full_like(x, 2 * np.log(deviation))))
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        below, above = (norm.logcdf((e - mean) / deviation) for e in (edges[:-1], edges[1:]))
        right, left = (norm.logsf((e - mean) / deviation) for e in (edges[:-1], edges[1:]))
        with np.errstate(divide="ignore"):  # of both tails, the one that keeps the digits is used
            of_left, of_right = above + np.log1p(-np.exp(below - above)), right + np.log1p(-np.exp(left - right))
        want = np.where(levels < mean, of_left, of_right)
        assert np.exp(got).sum() == pytest.approx(1, abs=1e-4)
        near = np.abs(levels - mean) < 8 * deviation
        np.testing.assert_allclose(got[near], want[near], rtol=2e-3, atol=2e-3)
        assert np.isfinite(got).all() or deviation == 0.01


def test_all_variants_have_the_same_bound_if_their_networks_see_the_same():
    x_0, keys = draws(8)
    shift = jnp.full_like(x_0, 0.3)

    def seen(form):
        network = ideal(SHORT)
        return predictor(Eps(), form, lambda x_t, t, x_hat: network(x_t - (shift if form.shifted else 0), t), shift)

    found = [chain_terms(SHORT, seen(form), x_0, keys) for form in FORMULATIONS.values()]
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found[0], other)


def model(variant, mesh=None):
    config = tiny_config(variant, **FIVE_STEPS, **{"sample.steps": 2})
    vae = random_params(vae_stage(config), 1) if variant != "uncond" else {}
    return VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2), mesh)


IMAGES = np.random.default_rng(3).integers(0, 256, (11, 16, 16, 3), np.uint8)


def test_the_condition_term_is_a_gaussian_likelihood_of_the_image_with_variance_one_half():
    form1, bits = model("form1"), 16 * 16 * 3 * np.log(2)
    bound = form1.bound(IMAGES)
    assert (bound.z > 0).all() and bound.steps.shape == (4, 11)
    # The only latent of the random VAE hardly matters, so decoding its mean gives nearly the image of the drawn z.
    error = np.sum((form1.reconstruct(IMAGES) - IMAGES / np.float32(255)) ** 2, axis=(1, 2, 3))
    mass = -norm.logpdf(0, scale=np.sqrt(0.5)) * 16 * 16 * 3 + error + 16 * 16 * 3 * np.log(255)
    np.testing.assert_allclose(bound.condition, mass / bits, rtol=1e-2)
    alone = model("uncond").bound(IMAGES)
    assert not alone.z.any() and not alone.condition.any()
    np.testing.assert_allclose(alone.total, alone.prior + alone.steps.sum(0) + alone.decoder, rtol=1e-6)


def test_the_bound_of_an_image_depends_on_its_index_alone():
    whole, one = model("form1"), model("form1", make_mesh(1, jax.devices()[:1]))
    want = whole.bound(IMAGES, seed=4)
    for got in (one.bound(IMAGES, seed=4, batch_size=3), whole.bound(IMAGES[2:], seed=4, first=2)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a[..., -b.shape[-1] :], rtol=1e-3), want, got)
    assert not np.allclose(whole.bound(IMAGES, seed=5).steps, want.steps)


def test_float_images_have_the_same_bound_as_bytes():
    form1, images = model("form1"), IMAGES[:3]
    want = form1.bound(images)
    for given in (images / np.float32(255), images / 255, list(images)):
        jax.tree.map(np.testing.assert_array_equal, form1.bound(given), want)


def test_a_model_without_a_refiner_has_no_bound():
    with pytest.raises(UserError, match="no trained DDPM"):
        VAEDM(tiny_config(), random_params(vae_stage(tiny_config())), {}).bound(IMAGES)
