"""Where a warm start begins: the rule is compared with a sweep on Gaussian data, which have closed forms."""

import numpy as np
import pytest

from tests.tiny import random_params, tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.diffusion.spacing import principal_variance, warm_step
from vaedm_jax.errors import UserError
from vaedm_jax.modes.shared.drawing import with_t_start
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FULL = linear_schedule()
# The variance of x_0 about x_hat in each direction.
ERRORS = {
    "equal": np.full(64, 0.05),
    "falling": 16 / np.arange(1, 65) ** 1.2,
    "steep": 16 / np.arange(1, 65) ** 2.0,
    "long tail": 0.5 / np.arange(1, 65),
}


def missed(variances: np.ndarray, t_start: int, n: int) -> float:
    """Return the Frechet distance between x_0 and the samples of n steps of DDIM from x_hat.

    It is divided by the sum of the variances. With the ideal predictor, each step scales each direction by a factor.
    """
    alpha_bar = FULL.alpha_bar[np.round(np.linspace(0, t_start, n)).astype(int)][::-1]
    deviation = np.full_like(variances, np.sqrt(1 - alpha_bar[0]))
    for now, after in zip(alpha_bar, [*alpha_bar[1:], 1.0], strict=True):
        total = now * variances + 1 - now
        x_0, eps = np.sqrt(now) * variances / total, np.sqrt(1 - now) / total
        deviation = deviation * (np.sqrt(after) * x_0 + np.sqrt(1 - after) * eps)
    return float(np.sum((deviation - np.sqrt(variances)) ** 2) / variances.sum())


@pytest.mark.parametrize("n", [5, 10, 25, 50])
@pytest.mark.parametrize("error", ERRORS)
def test_the_rule_is_as_good_as_a_sweep(error, n):
    variances = ERRORS[error]
    sweep = [missed(variances, t, n) for t in range(n, 1000, 20)]
    chosen = missed(variances, warm_step(FULL, np.sum(variances**2) / np.sum(variances), n), n)
    assert chosen < 1.25 * min(sweep) and chosen < 0.25 * max(sweep)


SPECTRA = {  # variances of errors [3072] along their principal axes
    "white": np.full(3072, 0.05),
    "low rank": np.append(np.full(3, 40.0), np.zeros(3069)),
    "falling": 200 / np.arange(1, 3073) ** 1.2,
    "a few above noise": np.append(np.full(5, 4.0), np.full(3067, 0.02)),
}


def drawn_errors(variances: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n errors of images, float32 [n, 32, 32, 3], with these variances along some axes."""
    rng = np.random.default_rng(seed)
    mirror = rng.standard_normal(len(variances))  # a reflection, so that the axes are not those of the pixels
    errors = np.sqrt(variances) * rng.standard_normal((n, len(variances)))
    errors -= 2 * np.outer(errors @ mirror, mirror) / (mirror @ mirror)
    return errors.reshape(n, 32, 32, 3).astype(np.float32)


@pytest.mark.parametrize("n", [32, 128, 512])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_variance_along_principal_directions_does_not_depend_on_the_number_of_images(spectrum, n):
    variances = SPECTRA[spectrum]
    truth = np.sum(variances**2) / np.sum(variances)
    found = [principal_variance(drawn_errors(variances, n, seed)) for seed in range(512 // n + 3)]
    scatter = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4 * scatter and scatter < 0.2 * truth


def test_an_error_that_all_images_share_counts():
    shared = np.full((7, 2, 2, 3), 0.5)
    assert principal_variance(shared) == pytest.approx(12 * 0.25)


def test_without_errors_the_variance_is_0_and_the_warm_start_is_the_latest_possible():
    assert principal_variance(np.zeros((5, 2, 2, 3))) == 0
    assert warm_step(FULL, principal_variance(np.zeros((5, 2, 2, 3))), 10) == 9


@pytest.mark.parametrize("n", [0, 1])
def test_the_rule_needs_two_images(n):
    with pytest.raises(UserError, match=r"t_start = 0.*two training images"):
        principal_variance(np.ones((n, 2, 2, 3)))


def test_fewer_steps_and_smaller_errors_give_a_smaller_t_start():
    by_steps = [warm_step(FULL, 4.0, n) for n in (5, 10, 25, 100)]
    by_error = [warm_step(FULL, v, 10) for v in (0.01, 0.1, 1.0, 10.0)]
    assert by_steps == sorted(by_steps) and by_error == sorted(by_error)
    assert warm_step(FULL, 0.0, 10) == 9 and warm_step(FULL, 1e9, 10) == 999


def test_a_t_start_of_0_is_replaced_by_the_rule_for_the_error_of_the_vae():
    config = tiny_config()
    vae = random_params(vae_stage(config), 1)
    model = VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2))
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    error = (2 * model.reconstruct(images) - images / 127.5).reshape(50, -1)
    squares = (error @ error.T) ** 2
    mean = squares[~np.eye(50, dtype=bool)].mean() / np.mean(error**2) / error.shape[1]
    snr = FULL.alpha_bar / (1 - FULL.alpha_bar)
    assert model.error_variance(images) == pytest.approx(mean, rel=1e-4)
    assert model.error_variance(images / 255) == pytest.approx(mean, rel=1e-4)
    settled = [Chain(start="warm", t_start=300), Chain(start="noise", t_start=0)]
    assert with_t_start(model, settled, lambda: pytest.fail("nothing asks for the rule")) == settled
    loads = []
    asking = [Chain(start="warm", t_start=0, steps=steps) for steps in (10, 25)]
    for chain in with_t_start(model, asking, lambda: loads.append(0) or images):
        t = chain.t_start
        assert chain.steps * snr[t] * mean <= 1 < chain.steps * snr[t - 1] * mean
    assert len(loads) == 1
