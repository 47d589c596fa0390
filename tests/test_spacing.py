"""Which steps a chain visits: any number of them, in the given spacing, from its start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaedm_jax.diffusion import spacing
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.errors import UserError

T = 1000
FULL = linear_schedule(T)


def properties(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@properties(60)
@given(st.integers(1, 1200), st.data())
def test_even_takes_any_number_of_steps(total, data):
    n = data.draw(st.integers(1, total))
    steps = spacing.even(total, n)
    assert len(steps) == n and steps[-1] == total - 1
    assert (np.diff(steps) > 0).all() and steps[0] == (0 if n > 1 else total - 1)
    assert n < 3 or np.ptp(np.diff(steps)) <= 1


@properties(60)
@given(st.integers(1, T))
def test_uniform_is_a_stride_or_an_error_that_names_the_nearest_numbers(n):
    possible = sorted({len(range(0, T, stride)) for stride in range(1, T + 1)})
    if n in possible:
        steps = spacing.uniform(T, n)
        assert len(steps) == n and steps[0] == 0 and steps[-1] < T
        assert len(set(np.diff(steps))) <= 1 and (np.diff(steps) > 0).all()
    else:
        with pytest.raises(UserError) as error:
            spacing.uniform(T, n)
        below, above = max(p for p in possible if p < n), min(p for p in possible if p > n)
        assert f"{below} and {above}" in str(error.value) and "'even'" in str(error.value)


def test_uniform_refuses_75_of_1000():
    with pytest.raises(UserError, match=r"^75 steps.*72 and 77"):
        spacing.timesteps(FULL, "noise", "uniform", 75, 0)


@pytest.mark.parametrize(("n", "got"), [(10, 10), (25, 25), (50, 49), (100, 96)])
def test_quadratic_is_dense_at_little_noise_and_may_have_fewer_steps(n, got):
    steps = spacing.quadratic(T, n)
    assert len(steps) == got and steps[0] == 0 and steps[-1] == 800
    assert (np.diff(steps) > 0).all()
    assert np.median(steps) == pytest.approx(200, rel=0.1)


@properties(40)
@given(st.integers(0, T - 1), st.data())
def test_a_warm_chain_starts_at_t_start_and_a_truncated_one_is_the_last_n_steps(t_start, data):
    n = data.draw(st.integers(1, t_start + 1))
    warm = spacing.timesteps(FULL, "warm", "even", n, t_start)
    assert len(set(warm)) == n and warm[-1] == t_start and (n == 1 or warm[0] == 0)
    assert spacing.timesteps(FULL, "truncated", "even", n, t_start).tolist() == list(range(n))


@properties(60)
@given(st.integers(0, T - 1), st.sampled_from(spacing.SPACINGS), st.data())
def test_a_warm_start_of_any_spacing_begins_at_t_start(t_start, name, data):
    n = data.draw(st.integers(1, t_start + 1))
    try:
        steps = spacing.timesteps(FULL, "warm", name, n, t_start)
    except UserError as error:
        assert name == "uniform" and "the nearest are" in str(error)
        return
    assert steps[-1] == pytest.approx(t_start, abs=1e-6) and (np.diff(steps) > 0).all() and steps[0] >= -1e-6
    if name == "uniform":
        assert len(steps) == n and len(set(np.diff(steps))) <= 1
        assert n < 2 or steps[0] < np.diff(steps)[0], "there is room for no further stride"
    if name == "quadratic" and n > 1:
        want = np.linspace(0, np.sqrt(t_start), n) ** 2
        assert steps[0] == 0 and all(np.abs(steps - w).min() <= 1 for w in want)


def test_uniform_and_quadratic_steps_from_500_are_the_listed_ones():
    assert spacing.timesteps(FULL, "warm", "uniform", 5, 500).tolist() == [96, 197, 298, 399, 500]
    assert spacing.timesteps(FULL, "warm", "quadratic", 5, 500).tolist() == [0, 31, 125, 281, 500]


@pytest.mark.parametrize("name", spacing.SPACINGS)
def test_a_single_step_is_the_start_of_the_chain(name):
    for start, t in (("noise", T - 1), ("warm", 400)):
        assert spacing.timesteps(FULL, start, name, 1, 400) == pytest.approx([t])


@pytest.mark.parametrize("start", spacing.STARTS)
@pytest.mark.parametrize("name", spacing.STEPS)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_steps_are_ascending_distinct_and_within_the_chain(start, name, n):
    steps = spacing.timesteps(FULL, start, name, n, 599)
    assert 1 <= len(steps) <= n and np.issubdtype(steps.dtype, np.integer)
    assert (np.diff(steps) > 0).all() and steps[0] >= 0 and steps[-1] < (T if start == "noise" else 600)


@pytest.mark.parametrize(
    ("start", "n", "t_start", "message"),
    [
        *((start, 1001, 500, r"^1001 steps.* 1 to 1000") for start in spacing.STARTS),
        *(("warm", n, 500, rf"^steps = {n}.*1 or more") for n in (-1, 0, 2.5, "5")),
        ("warm", 1, -1, r"t_start = -1.*0 or more"),
        ("warm", 1, 1000, r"t_start = 1000.*999"),
        ("warm", 12, 10, r"^12 steps from t_start = 10.*11"),
    ],
)
def test_impossible_steps_are_refused(start, n, t_start, message):
    with pytest.raises(UserError, match=message):
        Chain(start=start, steps=n, t_start=t_start).schedule(FULL)
