"""The diffusion process agrees with the paper: its schedule, the network's inputs, the loss, and the chains."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import by_noise, tiny_config
from vaedm_jax.diffusion import reverse, samplers, spacing
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.loss import noise_loss
from vaedm_jax.diffusion.prediction import Eps, from_eps, predictor
from vaedm_jax.diffusion.process import FORMULATIONS, noise_level, q_sample
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.schedule import VARIANCES, linear_schedule, make_schedule, respace
from vaedm_jax.errors import UserError

T = 1000
FULL = linear_schedule(T)
BETA = 1e-4 + (0.02 - 1e-4) * np.arange(T) / (T - 1)
ALPHA_BAR = np.exp(np.cumsum(np.log1p(-BETA)))
SHAPE = (2, 3, 2)


def properties(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def close(got, want, tolerance=1e-5):
    """Assert that `got` is `want`, within `tolerance` of the largest absolute value."""
    want = np.asarray(want, np.float64)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance * np.abs(want).max())


some_steps = st.sets(st.integers(0, T - 1), min_size=1, max_size=8).map(lambda steps: np.array(sorted(steps)))


@st.composite
def respaced(draw):
    """Draw a linear schedule and some of its steps.

    Returns:
      alpha_bar at these steps, as a product of alphas, and the respaced schedule.
    """
    n, first, last = draw(st.integers(2, 40)), draw(st.floats(1e-4, 0.1)), draw(st.floats(0.1, 0.6))
    steps = np.array(sorted(draw(st.sets(st.integers(0, n - 1), min_size=1))))
    alpha = [1 - first - (last - first) * i / (n - 1) for i in range(n)]
    alpha_bar = np.array([np.prod(alpha[: step + 1]) for step in steps])
    return alpha_bar, respace(linear_schedule(n, first, last), steps)


# --- the schedule


def test_the_schedule_is_that_of_the_paper():
    np.testing.assert_allclose(FULL.beta, BETA, rtol=1e-11)
    np.testing.assert_allclose(FULL.alpha_bar, ALPHA_BAR, rtol=1e-12)
    assert FULL.alpha_bar.dtype == np.float64
    assert FULL.alpha_bar_prev[0] == 1


def test_respacing_to_every_step_changes_nothing():
    again = respace(FULL, np.arange(T))
    tables = (*again, again.beta, *again.posterior_coefficients()), (*FULL, BETA, *FULL.posterior_coefficients())
    for got, want in zip(*tables, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11)
    for variance in VARIANCES:
        for got, want in zip(samplers.ddpm(again, variance), samplers.ddpm(FULL, variance), strict=True):
            np.testing.assert_array_equal(got, want)


@properties(20)
@given(some_steps)
def test_respacing_keeps_the_marginals(steps):
    schedule = respace(FULL, steps)
    assert (schedule.t == steps).all()
    np.testing.assert_allclose(np.cumprod(1 - schedule.beta), ALPHA_BAR[steps], rtol=1e-9)
    twice = respace(schedule, np.arange(0, len(steps), 2))
    np.testing.assert_array_equal(twice, respace(FULL, steps[::2]))


@properties(20)
@given(respaced())
def test_log_variances_are_finite_and_match_their_names(chain):
    _, schedule = chain
    small, large = (schedule.log_variance(name) for name in VARIANCES)
    np.testing.assert_allclose(np.exp(small[1:]), schedule.posterior_variance[1:])
    np.testing.assert_allclose(np.exp(large[1:]), schedule.beta[1:])
    assert small[0] == large[0] and np.isfinite(small[0])
    assert (small <= large + 1e-12).all()
    if len(small) > 1:
        assert small[0] == small[1]


# --- the forward process, the inputs of the network, and the loss


@properties(20)
@given(some_steps, st.integers(0, 99))
def test_the_clean_image_follows_from_its_noise(steps, seed):
    x_0, eps = normal((seed, 0), len(steps), *SHAPE), normal((seed, 1), len(steps), *SHAPE)
    u_t = q_sample(FULL, x_0, steps, eps)
    a = ALPHA_BAR[steps][:, None, None, None]
    close(u_t, np.sqrt(a) * x_0 + np.sqrt(1 - a) * eps, 1e-6)
    close(from_eps(u_t, noise_level(FULL, steps, len(steps)), eps).x_0, x_0, 1e-4)


@pytest.mark.parametrize(
    ("variant", "shown", "shifted"), [("uncond", False, False), ("form1", True, False), ("form2", True, True)]
)
def test_each_variant_shows_the_network_what_the_paper_says(variant, shown, shifted):
    x_0, x_hat, eps = (normal(seed, 3, *SHAPE) for seed in range(3))
    t, a = np.array([0, 500, 999]), ALPHA_BAR[[0, 500, 999]][:, None, None, None]
    calls = []

    def network(*inputs, **conditions):
        calls.append((*inputs, conditions))
        return jnp.zeros(x_0.shape)

    noise_loss(FULL, predictor(Eps(), FORMULATIONS[variant], network, x_hat, z="z"), x_0, t, eps)
    [(x_t, told, image, conditions)] = calls
    close(x_t, np.sqrt(a) * x_0 + np.sqrt(1 - a) * eps + (x_hat if shifted else 0), 1e-6)
    assert (told == t).all() and conditions == {"z": "z"}
    assert (image is x_hat) if shown else (image is None)


def test_loss_is_the_mean_squared_error_of_each_image():
    x_0, eps, t = normal(0, 4, *SHAPE), normal(1, 4, *SHAPE), np.array([0, 10, 700, 999])
    a = ALPHA_BAR[t][:, None, None, None]
    oracle = noise_loss(FULL, by_noise(lambda u, _: (u - np.sqrt(a) * x_0) / np.sqrt(1 - a)), x_0, t, eps)
    np.testing.assert_allclose(oracle, np.zeros(4), atol=1e-8)
    silent = noise_loss(FULL, by_noise(lambda u, _: jnp.zeros_like(u)), x_0, t, eps)
    np.testing.assert_allclose(silent, [np.mean(image**2) for image in eps], rtol=1e-6)


# --- reverse chains


def network(x_t, t, x_hat, np=jnp):
    """Return the output of a stand-in for the network. It depends on all inputs, nonlinearly on x_t and x_hat."""
    return np.tanh(x_t + 0.5 * x_hat) * np.cos(x_hat) + 0.2 * t[:, None, None, None] / T


def algorithm_2(steps, x, x_hat, z, clip):
    """Run the paper's Algorithm 2 with eq. 17 and 18, in x, with t from 1 to N. Return x - x_hat.

    Args:
      steps: [N], the steps of the full chain that t = 1, 2, ... visit.
      z: [N, B, H, W, C], the noise of each reverse step.
    """
    alpha_bar = [1.0, *ALPHA_BAR[steps]]
    for t in range(len(steps), 0, -1):
        a, a_prev = alpha_bar[t], alpha_bar[t - 1]
        alpha = a / a_prev
        beta = 1 - alpha
        eps = network(x, np.full(len(x), steps[t - 1]), x_hat, np)
        x_0 = (x - x_hat - eps * np.sqrt(1 - a)) / np.sqrt(a)
        x_0 = np.clip(x_0, -1, 1) if clip else x_0
        gamma_0, gamma_1 = beta * np.sqrt(a_prev) / (1 - a), (1 - a_prev) * np.sqrt(alpha) / (1 - a)
        kappa = 1 - gamma_1
        x = gamma_0 * x_0 + gamma_1 * x + kappa * x_hat
        if t > 1:
            x = x + np.sqrt((1 - a_prev) / (1 - a) * beta) * z[len(steps) - t]
    return x - x_hat


@properties(8)
@given(some_steps, st.integers(0, 99), st.booleans())
def test_formulation_2_is_algorithm_2_of_the_paper(steps, seed, clip):
    x_hat, eps, z = (normal((seed, i), *s) for i, s in enumerate([(2, *SHAPE), (2, *SHAPE), (len(steps), 2, *SHAPE)]))
    want = algorithm_2(steps, x_hat + eps, x_hat, z, clip)
    predict = predictor(Eps(), FORMULATIONS["form2"], network, jnp.asarray(x_hat, jnp.float32))
    table, noise = samplers.ddpm(respace(FULL, steps)), jnp.asarray(z, jnp.float32)
    got = reverse.reverse(predict, table.trimmed(), jnp.asarray(eps, jnp.float32), lambda j: noise[j], clip)
    close(got, want, 1e-4)


def silent(u, t):
    return jnp.zeros_like(u)


def stand_in(u, t):
    return network(u, t, 0 * u)


def images(chain, keys, x_hat=None, predict_noise=stand_in, full=FULL):
    return np.asarray(run_chain(chain.arrays(full), by_noise(predict_noise), keys, SHAPE, x_hat))


CHAINS = [
    Chain(steps=6),
    Chain(steps=6, variance="fixedlarge", start="truncated"),
    Chain("ddim", steps=6, spacing="quadratic"),
    Chain("ddim", steps=6, eta=0.7, start="warm", t_start=300),
    Chain("heun", steps=6, churn=3.0),
    Chain("unipc3", steps=6, spacing="logsnr", start="warm", t_start=700, dynamic=0.9),
    Chain("ipndm", steps=6, spacing="karras"),
]


@pytest.mark.parametrize("chain", CHAINS)
def test_an_image_depends_on_its_own_key_alone(chain):
    x_hat, order = jnp.asarray(normal(0, 5, *SHAPE), jnp.float32).clip(-1, 1), np.array([3, 0, 4, 1, 2])
    run = jax.jit(lambda keys, x_hat: run_chain(chain.arrays(FULL), by_noise(stand_in), keys, SHAPE, x_hat))
    whole = run(keys(5), x_hat)
    assert whole.shape == (5, *SHAPE) and np.abs(whole).max() <= 1
    assert len(np.unique(whole.reshape(5, -1), axis=0)) == 5
    close(run(keys(5)[order], x_hat[order]), whole[order], 1e-6)
    close(run(keys(5)[2:3], x_hat[2:3]), whole[2:3], 1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_memory_of_a_chain_does_not_grow_with_its_steps(sampler):
    def memory(steps):
        run = jax.jit(lambda keys: run_chain(Chain(sampler, steps).arrays(FULL), by_noise(stand_in), keys, SHAPE))
        return run.lower(keys(64)).compile().memory_analysis().temp_size_in_bytes

    image_bytes = 4 * 64 * np.prod(SHAPE)
    assert memory(400) < memory(4) + image_bytes < 100 * image_bytes  # an image for each step would add 396


def test_a_chain_truncated_to_all_steps_is_the_whole_chain():
    assert spacing.uniform(T, T).tolist() == spacing.even(T, T).tolist() == list(range(T))
    whole, truncated = (
        images(Chain(steps=20, start=start), keys(2), full=linear_schedule(20)) for start in ("noise", "truncated")
    )
    np.testing.assert_array_equal(whole, truncated)


@pytest.mark.parametrize(("t_start", "steps"), [(0, 1), (1, 1), (1, 2), (10, 11), (500, 1), (500, 7), (999, 7)])
def test_warm_start_begins_at_x_hat_noised_to_t_start(t_start, steps):
    """If no noise is predicted, DDIM only rescales: u_0 = u_start / sqrt(alpha_bar_start), for any steps."""

    def run(**how):
        return images(Chain("ddim", clip=False, **how), keys(2), jnp.asarray(x_hat, jnp.float32), silent)

    x_hat, a = normal(0, 2, *SHAPE), ALPHA_BAR[t_start]
    start = run(steps=1, start="noise") * np.sqrt(ALPHA_BAR[-1])
    close(run(steps=steps, start="warm", t_start=t_start), x_hat + np.sqrt((1 - a) / a) * start)


def visited(chain, predict_noise, keys, shape):
    """Run a chain and return what the network was shown: the steps [N] and u [N, B, H, W, C]."""
    seen = []

    def watch(u, t):
        seen.append((t, u))
        return predict_noise(u, t)

    with jax.disable_jit():
        run_chain(chain.arrays(FULL), by_noise(watch), keys, shape, jnp.zeros((len(keys), *shape)))
    assert all((t == t[0]).all() and t.shape == (len(keys),) for t, _ in seen)
    return [float(t[0]) for t, _ in seen], np.stack([u for _, u in seen])


@pytest.mark.parametrize("chain", CHAINS)
def test_the_network_is_told_the_step_of_the_whole_chain(chain):
    steps, _ = visited(chain, silent, keys(2), SHAPE)
    assert steps == pytest.approx(chain.table(FULL).t, abs=1e-3)
    if chain.sampler != "heun":
        assert steps == pytest.approx(chain.schedule(FULL).t[::-1], abs=1e-3)


def no_noise(j):
    raise AssertionError("noise was asked for")


def test_ddim_adds_no_noise_in_its_steps_unless_eta_is_set():
    schedule, u = respace(FULL, spacing.even(T, 5)), jnp.asarray(normal(0, 2, *SHAPE), jnp.float32)
    reverse.reverse(by_noise(stand_in), samplers.ddim(schedule).trimmed(), u, no_noise)
    for table in (samplers.ddim(schedule, 0.1), samplers.ddpm(schedule)):
        with pytest.raises(AssertionError, match="noise was asked for"):
            reverse.reverse(by_noise(stand_in), table.trimmed(), u, no_noise)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("total", [2, 5, 16, 100])
def test_the_coefficients_of_every_sampler_are_finite_in_short_chains(sampler, total):
    full = make_schedule(tiny_config(**{"ddpm.T": total}).ddpm)
    for steps in {2, total // 2, total}:
        for column in Chain(sampler, steps, eta=1.0, churn=1.0).table(full):
            assert np.isfinite(column).all()


@pytest.mark.parametrize("start", spacing.STARTS)
def test_a_single_step_returns_the_estimate_of_the_clean_image(start):
    chain = Chain(steps=1, start=start, t_start=400, clip=False)
    [t], [u] = visited(chain, stand_in, keys(2), SHAPE)
    a = ALPHA_BAR[int(t)]
    want = (u - np.sqrt(1 - a) * network(u, np.full(2, t), 0 * u, np)) / np.sqrt(a)
    close(images(chain, keys(2), jnp.zeros((2, *SHAPE))), want)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_are_bounded_only_if_they_are_clipped(sampler):
    def absurd(u, t):
        return 1e3 * jnp.cos(t)[:, None, None, None] * jnp.ones_like(u)

    clipped, free = (images(Chain(sampler, steps=5, clip=clip), keys(2), None, absurd) for clip in (True, False))
    assert np.abs(clipped).max() == 1 and np.abs(free).max() > 1


def test_chains_that_draw_different_images_have_different_names():
    changes = [
        {}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}, {"variance": "fixedlarge"}, {"steps": 10},
        {"start": "warm"}, {"start": "warm", "t_start": 400}, {"start": "truncated"}, {"spacing": "uniform"},
        {"clip": False}, {"dynamic": 0.99}, {"dynamic": 0.995}, {"sampler": "unipc2"}, {"sampler": "unipc3"},
        {"sampler": "ddim", "clip_eps": False}, {"temperature": 0.9}, {"guidance": 0.9}, {"shared": True},
        {"sampler": "heun"}, {"sampler": "heun", "churn": 2.0}, {"sampler": "heun", "churn": 2.0, "churn_max": 1.0},
    ]  # fmt: skip
    labels = [str(Chain(**{"steps": 20, **change}).name(FULL)) for change in changes]
    assert len(set(labels)) == len(labels) and all(re.fullmatch(r"[\w.+-]+", label) for label in labels)
    assert Chain(start="warm", sampler="ddim", steps=10).name(FULL) == ("ddim", "warm500", 10, "")
    assert labels[0] == "ddpm_noise_20"


@pytest.mark.parametrize("guidance", [0.0, 1.0])
@pytest.mark.parametrize("chain", [*CHAINS, Chain(steps=50, spacing="quadratic"), Chain("heun", 1, spacing="uniform")])
def test_a_chain_describes_its_start_and_its_number_of_evaluations(chain, guidance):
    seen, _ = visited(chain, silent, keys(1), (1, 1, 1))
    chain = replace(chain, guidance=guidance)
    told = chain.describe(FULL)
    steps = (len(seen) + 1) // 2 if chain.sampler == "heun" else len(seen)
    assert chain.name(FULL).steps == steps and f" {steps} step" in told
    begins = re.search(r"from (?:noise at )?t = ([\d.]+)|from noise", told)[1]
    assert float(begins or T - 1) == pytest.approx(seen[0], abs=1e-3)
    evaluations = len(seen) * (2 if guidance else 1)
    assert chain.nfe(FULL) == evaluations
    assert (f"{evaluations} evaluations" in told) == (evaluations != steps)


@pytest.mark.parametrize("name", ["even", "logsnr", "karras"])
def test_a_chain_that_starts_at_the_last_step_is_described_as_one_from_noise_for_any_schedule(name):
    for total, beta_T in ((5, 0.5), (100, 0.02), (128, 0.08), (1000, 0.03)):
        assert Chain(steps=3, spacing=name).describe(linear_schedule(total, 1e-4, beta_T)) == "ddpm, 3 steps from noise"


def test_chains_of_equal_length_have_different_names_if_their_setting_of_steps_differs():
    asked = range(900, T)
    assert len({len(spacing.quadratic(T, n)) for n in asked}) < len(asked)
    assert len({Chain(steps=n, spacing="quadratic").name(FULL) for n in asked}) == len(asked)


@pytest.mark.parametrize(
    ("chain", "idle"),
    [
        (Chain("unipc2"), {"variance": "fixedlarge", "eta": 0.5, "churn": 1.0, "t_start": 300}),
        (Chain("ddim", start="truncated", steps=5), {"spacing": "logsnr", "t_start": 300, "variance": "fixedlarge"}),
    ],
)
def test_settings_without_an_effect_do_not_make_another_chain(chain, idle):
    other = replace(chain, **idle)
    for a, b in zip(jax.tree.leaves(other.arrays(FULL)), jax.tree.leaves(chain.arrays(FULL)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.changes == chain.changes and other.name(FULL) == chain.name(FULL)


def test_a_switch_must_be_true_or_false():
    with pytest.raises(UserError, match="clip = 'no': it should be True or False"):
        Chain(clip="no")


def test_chains_are_hashable_and_compared_by_value():
    assert len({Chain(), Chain(steps=1000), Chain(steps=10)}) == 2
