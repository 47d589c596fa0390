"""Consistency tuning: its loss, its sampler and its runs, on data whose consistency function is known.

If x_0 ~ N(x_hat, sigma_r^2), the probability-flow ODE leads from u at noise sigma to
x_hat + (u / a - x_hat) sigma_r / sqrt(sigma^2 + sigma_r^2).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture  # noqa: F401
from tests.tiny import in_float64, random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.loss import consistency_loss, earlier_sigma
from vaedm_jax.diffusion.prediction import Estimate
from vaedm_jax.diffusion.process import level_of_sigma
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.errors import UserError
from vaedm_jax.main import main
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FULL, SIGMA_R, X_HAT = linear_schedule(), 0.4, 0.3


def predict_with(power: float):
    """Return a network whose clean image is x_hat + (u / a - x_hat) g, g = (sigma_r^2 / (sigma^2 + sigma_r^2))^power.

    The power 1/2 is the consistency function, the power 1 the denoiser.
    """

    def predict(u, level):
        a, s = level.sqrt_alpha_bar, level.sqrt_one_minus_alpha_bar
        g = (SIGMA_R**2 / ((s / a) ** 2 + SIGMA_R**2)) ** power
        x_0 = X_HAT + (u / a - X_HAT) * g
        return Estimate(x_0, (u - a * x_0) / s)

    return predict


def test_a_level_between_two_steps_has_the_noise_that_was_asked_for():
    with in_float64():
        sigma = jnp.asarray([0.02, 0.5, 3.0, 100.0])
        level = level_of_sigma(FULL, sigma)
        ratio = level.sqrt_one_minus_alpha_bar / level.sqrt_alpha_bar
        np.testing.assert_allclose(ratio.ravel(), sigma, rtol=1e-12)
        np.testing.assert_allclose(np.exp(-np.interp(level.t, FULL.t, FULL.log_snr)), sigma, rtol=1e-3)


def test_the_gap_halves_and_small_noise_is_compared_with_the_image_itself():
    sigma = jnp.asarray([0.1, 1.0, 50.0])
    gaps = [np.asarray(sigma - earlier_sigma(sigma, jnp.asarray(k))) for k in (0, 1, 2, 8)]
    assert gaps[0][0] == pytest.approx(0.1) and gaps[0][2] == pytest.approx(25.0)
    np.testing.assert_allclose(gaps[2][2] / gaps[1][2], 0.5, rtol=1e-5)
    assert (gaps[3] < 0.02 * np.asarray(sigma)).all()


def test_a_run_of_many_doublings_keeps_a_gap_that_float32_resolves():
    eps, sigma = jnp.ones((1, 1, 1, 1)), jnp.asarray([2.0])
    losses = [consistency_loss(FULL, predict_with(1.0), 0 * eps, sigma, eps, jnp.asarray(k)) for k in (8, 30, 2000)]
    assert losses[1] == losses[2]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_its_gradient_vanishes_at_the_consistency_function_alone():
    """The loss is not differentiated through its target, so its fixed point is where the gradient vanishes."""
    with in_float64():
        n = 200_000
        keys = jax.random.split(jax.random.key(0), 2)
        x_0 = X_HAT + SIGMA_R * jax.random.normal(keys[0], (n, 1, 1, 1), float)
        eps = jax.random.normal(keys[1], (n, 1, 1, 1), float)

        def slope(power: float, sigma: float) -> float:
            def loss(change):
                moved = lambda u, level: predict_with(power + change)(u, level)  # noqa: E731
                squared = consistency_loss(FULL, moved, x_0, jnp.full(n, sigma), eps, jnp.asarray(7)) ** 2
                return jnp.mean(squared)

            return float(jax.jit(jax.grad(loss))(0.0))

        for sigma in (0.5, 1.5):
            steepest = abs(slope(1.0, sigma))
            assert abs(slope(0.5, sigma)) < 0.05 * steepest
            assert slope(0.3, sigma) < 0 < slope(0.7, sigma)


def test_open_levels_start_at_pure_noise_and_leave_out_the_end():
    levels = Chain("consistency", 3, spacing="open").schedule(FULL).log_snr
    wanted = np.linspace(FULL.log_snr[0], FULL.log_snr[-1], 4)[1:]
    np.testing.assert_allclose(levels, wanted, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_have_the_mean_and_the_variance_of_the_data(steps):
    """Each evaluation of the exact consistency function gives a sample of the data."""
    chain = Chain("consistency", steps, spacing="open", clip=False)
    shape, keys = (100, 100, 1), jax.random.split(jax.random.key(1), 1)
    x = np.asarray(run_chain(chain.arrays(FULL), predict_with(0.5), keys, shape))
    assert chain.nfe(FULL) == steps
    assert x.mean() == pytest.approx(X_HAT, abs=0.02) and x.std() == pytest.approx(SIGMA_R, rel=0.03)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of a tiny model that predicts what x_hat lacks."""
    config = tiny_config(**{"ddpm.prediction": "residual", "ddpm.sigma_r": 0.3, "ddpm.sigma_data": 0.7})
    vae = random_params(vae_stage(config), 1)
    file = tmp_path_factory.mktemp("model") / "teacher.safetensors"
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file)
    return file


def tune(configs, teacher, folder, *options: str) -> int:
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={folder}", "--config.ddpm.prediction=residual"]
    command += [f"--config.vae.checkpoint={teacher}", f"--config.ddpm.init={teacher}"]
    return main([*command, "--config.ddpm.objective=consistency", "--config.ddpm.doubling=2", *options])


def test_a_tuned_run_continues_with_the_same_bits_and_refuses_what_it_cannot_do(configs, teacher, tmp_path, capsys):
    for steps in (3, 6):
        assert tune(configs, teacher, tmp_path / "parts", f"--config.ddpm.steps={steps}") == 0
    assert tune(configs, teacher, tmp_path / "whole", "--config.ddpm.steps=6") == 0
    parts, whole = (VAEDM.from_run(tmp_path / name) for name in ("parts", "whole"))
    before = VAEDM.open(teacher)
    jax.tree.map(np.testing.assert_array_equal, parts.params["ddpm"], whole.params["ddpm"])
    assert whole.engine.fingerprint != before.engine.fingerprint and whole.engine.vae_digest == before.engine.vae_digest
    images = whole.sample(2, sampler="consistency", steps=2, start="noise", spacing="open").images
    assert images.shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match="objective"):
        whole.bound(np.zeros((1, 16, 16, 3)))
    assert tune(configs, teacher, tmp_path / "eps", "--config.ddpm.prediction=eps") == 2
    assert "ddpm.objective" in capsys.readouterr().err
    assert tune(configs, teacher, tmp_path / "min_snr", "--config.ddpm.weighting=min_snr") == 2
    assert "ddpm.weighting must be 'mse'" in capsys.readouterr().err
