"""The training loop continues where it was, stops at a number that is not finite, and saves when asked to stop."""

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vaedm_jax.data import Dataset
from vaedm_jax.errors import RunError
from vaedm_jax.mesh import make_mesh
from vaedm_jax.reporting import read_metrics
from vaedm_jax.training.loop import fit, restore_average
from vaedm_jax.training.stages import Stage

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), np.uint8)
DATA = Dataset("noise", IMAGES, IMAGES)
PLAIN_ADAM = {"ddpm.warmup": 0, "ddpm.clip": 0.0}


def make(steps: int, nan_at: int = 0) -> tuple[Stage, object]:
    """A stage that fits a line with noise, and its configuration; from step `nan_at` on its loss is NaN."""
    config = tiny_config(**{"ddpm.steps": steps, "ddpm.ema_decay": 0.5, "ddpm.learning_rate": 0.1, **PLAIN_ADAM})

    def loss(params, frozen, images, keys, train):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 255
        noise = jax.vmap(jax.random.normal)(keys)
        value = jnp.mean((x @ params["w"] - x.sum(1) - noise) ** 2)
        # Adam moves the counter by about its rate of 0.1 at every step.
        spoilt = bool(nan_at) & (jax.lax.stop_gradient(params["steps"]) > 0.1 * (nan_at - 1.5))
        return jnp.where(spoilt, jnp.nan, value - params["steps"]), {}

    def init(key):
        return {"w": jax.random.normal(key, (48,)), "steps": jnp.zeros(())}

    return Stage("ddpm", config.ddpm, init, loss, {}), config


def train(workdir: Path, steps: int, on_picture=lambda step, average: {}, **changes):
    stage, config = make(steps, **changes)
    return fit(stage, DATA, config, workdir, make_mesh(), on_picture)


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_a_longer_run_continues_the_shorter_one_as_if_it_had_never_ended(tmp_path):
    train(tmp_path / "parts", 5)
    train(tmp_path / "parts", 8)
    continued = train(tmp_path / "parts", 12)
    assert_same(continued, train(tmp_path / "whole", 12))
    assert int(continued.step) == 12
    losses = [[line["loss"] for line in read_metrics(tmp_path / run / "ddpm")] for run in ("parts", "whole")]
    assert losses[0][-2:] == losses[1][-2:]


def test_a_run_that_is_done_is_not_trained_again(tmp_path, capsys):
    done = train(tmp_path, 4)
    assert_same(train(tmp_path, 4), done)
    assert "done, 4 steps" in capsys.readouterr().out


def test_the_average_is_what_is_sampled_with(tmp_path):
    state = train(tmp_path, 6)
    assert_same(restore_average(make(6)[0], tmp_path, make_mesh()), state.ema)
    assert restore_average(make(6)[0], tmp_path / "nothing", make_mesh()) is None


@pytest.mark.parametrize(("nan_at", "last_good"), [(2, None), (7, 6), (8, 6)])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, nan_at, last_good):
    with pytest.raises(RunError) as stopped:
        train(tmp_path, 12, nan_at=nan_at)
    assert f"step {nan_at}: the loss is nan" in str(stopped.value)
    average = restore_average(make(12)[0], tmp_path, make_mesh())
    if last_good is None:
        assert average is None
    else:
        assert_same(average, train(tmp_path / "good", last_good).average)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_saves_and_the_next_run_continues(tmp_path, number):
    with pytest.raises(RunError, match=f"{number.name}: saved ddpm at step 5 of 12"):
        train(tmp_path / "stopped", 12, lambda step, average: os.kill(os.getpid(), number) or {})
    assert signal.getsignal(number) is not None
    assert_same(train(tmp_path / "stopped", 12), train(tmp_path / "whole", 12))


def test_what_is_evaluated_on_the_way_is_written_down(tmp_path):
    seen = []
    train(tmp_path, 10, lambda step, average: seen.append(step) or {"quality": step / 2})
    assert seen == [4, 8, 10]
    lines = [(line["step"], line["quality"]) for line in read_metrics(tmp_path / "ddpm") if "quality" in line]
    assert lines == [(4, 2), (8, 4), (10, 5)]


def test_the_first_line_states_device_parameters_memory_and_duration(tmp_path, capsys):
    train(tmp_path, 8)
    line = capsys.readouterr().out
    assert line.startswith("ddpm: 8 x cpu, 49 parameters, about ") and " MB a device and " in line
    assert "for the steps 1 to 8 of 8 images" in line
