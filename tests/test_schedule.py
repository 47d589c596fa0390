"""The schedule of a configuration: chains of any T start from noise, and earlier runs keep their schedules."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import by_noise, tiny_config
from vaedm_jax.config import base_config, published_config
from vaedm_jax.config.checks import check
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.schedule import make_schedule
from vaedm_jax.errors import UserError
from vaedm_jax.runs import rundir
from vaedm_jax.sampling.networks import build_networks

WEIGHTS, MEANS, S = np.array([0.9, 0.1]), np.array([-0.6, 0.8]), 0.1  # a mixture of two Gaussians


def of(T, **changes):
    return tiny_config(**{"ddpm.T": T, **{f"ddpm.{name}": value for name, value in changes.items()}})


def exact(schedule):
    """Return the predictor E[eps | u_t] for pixels x_0 of the mixture, by Bayes' rule."""
    table = jnp.asarray(schedule.alpha_bar, jnp.float32)

    def predict_noise(u, t):
        a = table[t[0].astype(int)]
        total, offsets = a * S**2 + 1 - a, [u - jnp.sqrt(a) * mean for mean in MEANS]
        logits = jnp.stack([np.log(w) - d**2 / (2 * total) for w, d in zip(WEIGHTS, offsets, strict=True)])
        shares = jax.nn.softmax(logits, axis=0)
        return sum(share * d for share, d in zip(shares, offsets, strict=True)) * jnp.sqrt(1 - a) / total

    return predict_noise


@pytest.mark.parametrize("T", [50, 100, 1000])
def test_samples_have_the_weights_of_the_mixture_for_any_T(T):
    full = make_schedule(of(T).ddpm)
    chain = Chain("ddim", min(T, 100), clip=False)
    drawn = np.asarray(
        run_chain(chain.arrays(full), by_noise(exact(full)), jax.random.split(jax.random.key(0), 1), (200, 200, 1))
    )
    share = np.mean(drawn < 0.1)
    assert share == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / drawn.size) + 1e-3)


def test_betas_are_given_for_1000_steps_and_scaled_to_T():
    np.testing.assert_allclose(make_schedule(of(200).ddpm).beta, 5 * np.linspace(1e-4, 0.02, 200), rtol=1e-9)
    np.testing.assert_array_equal(
        make_schedule(of(1000).ddpm).alpha_bar, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))
    )
    few = make_schedule(of(10).ddpm)
    np.testing.assert_allclose(few.beta, np.minimum(100 * np.linspace(1e-4, 0.02, 10), 0.999), rtol=1e-6)
    assert (few.alpha_bar > 0).all() and np.isfinite(few.log_snr).all()


def test_betas_that_are_not_scaled_are_used_as_given():
    plain = np.linspace(1e-4, 0.02, 200)
    for config in (of(200, scale_betas=False), published_config()):
        config.ddpm.T = 200
        np.testing.assert_allclose(make_schedule(config.ddpm).beta, plain, rtol=1e-9)
        np.testing.assert_allclose(build_networks(config).full_schedule.beta, plain, rtol=1e-9)


@pytest.mark.parametrize("T", [2, 3, 7, 20, 100, 1000, 4000])
def test_training_accepts_schedules_that_end_at_noise(T):
    config = of(T)
    config.sample.steps = 1
    check(config)
    assert make_schedule(config.ddpm).alpha_bar[-1] < 1e-2


@pytest.mark.parametrize(
    ("changes", "left"), [({"T": 100, "scale_betas": False}, "0.36"), ({"beta_T": 0.002}, "0.35"), ({"T": 1}, "0.9")]
)
def test_training_refuses_a_schedule_that_does_not_end_at_noise_unless_it_is_allowed(changes, left):
    config = of(**{"T": 1000, **changes})
    config.sample.steps = config.log.sample_steps = 1
    with pytest.raises(UserError, match=rf"alpha_bar.* {left}.*0\.01.*ddpm\.allow_signal_at_T=True"):
        check(config)
    check(config, to_train=False)  # a model that is trained already can be sampled
    config.ddpm.allow_signal_at_T = True
    check(config)


@pytest.mark.parametrize("changes", [{"T": 100_000, "scale_betas": False}, {"T": 1000, "beta_T": 0.999}])
def test_training_refuses_a_schedule_that_ends_where_float32_has_only_0(changes):
    with pytest.raises(UserError, match=r"alpha_bar.* at least 1e-75.*lower T or the betas"):
        check(of(**changes))


def test_a_run_of_an_earlier_version_keeps_its_schedule_and_continues(tmp_path):
    config = of(100, scale_betas=False)
    config.sample.steps = 2
    stored = json.loads(rundir.encode_config(config))
    del stored["ddpm"]["scale_betas"], stored["ddpm"]["allow_signal_at_T"]
    (tmp_path / rundir.FILE).write_text(json.dumps(stored))
    old = rundir.read_config(tmp_path)
    np.testing.assert_allclose(build_networks(old).full_schedule.beta, np.linspace(1e-4, 0.02, 100), rtol=1e-9)
    check(old)
    assert base_config().ddpm.scale_betas is True


def test_the_command_line_refuses_a_schedule_that_does_not_end_at_noise(refused):
    command = (
        "--mode=train --config={configs}/tiny.py --workdir={new} --config.ddpm.T=100 --config.ddpm.scale_betas=False"
    )
    refused(command, "ddpm.T = 100", "alpha_bar", "0.36", "--config.ddpm.allow_signal_at_T=True")
