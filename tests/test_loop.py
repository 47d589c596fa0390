"""The training loop continues where it stopped, ends if a number is not finite, and saves when asked to stop."""

import math
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vaedm_jax.data import Dataset
from vaedm_jax.errors import RunError, Stopped
from vaedm_jax.reporting import read_metrics
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training import loop
from vaedm_jax.training.checkpoints import Checkpoints
from vaedm_jax.training.log import Log
from vaedm_jax.training.loop import abstract_state, fit, restore_average
from vaedm_jax.training.stages import Stage
from vaedm_jax.training.stop import Stop

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), np.uint8)
DATA = Dataset("noise", IMAGES, IMAGES)
PLAIN_ADAM = {"ddpm.warmup": 0, "ddpm.clip": 0.0}


def make(steps: int, nan_at: int = 0, best: str = "") -> tuple[Stage, object]:
    """Return a stage that fits a line with noise, and its configuration. From step `nan_at` on, its loss is NaN."""
    settings = {"ddpm.ema_decay": 0.5, "ddpm.learning_rate": 0.1, "checkpoint.best": best, **PLAIN_ADAM}
    config = tiny_config(**{"ddpm.steps": steps, **settings})

    def loss(params, frozen, images, keys, train):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 255
        noise = jax.vmap(jax.random.normal)(keys)
        value = jnp.mean((x @ params["w"] - x.sum(1) - noise) ** 2)
        # Adam moves this counter by about its learning rate, 0.1, in every step.
        spoilt = bool(nan_at) & (jax.lax.stop_gradient(params["steps"]) > 0.1 * (nan_at - 1.5))
        return jnp.where(spoilt, jnp.nan, value - params["steps"]), {}

    def init(key):
        return {"w": jax.random.normal(key, (48,)), "steps": jnp.zeros(())}

    return Stage("ddpm", config.ddpm, init, loss, lambda *_: {}, {}), config


def train(workdir: Path, steps: int, on_picture=lambda step, average, poll: {}, **changes):
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


def test_the_averaged_parameters_are_those_that_are_sampled_from(tmp_path):
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


def send(number: int) -> dict:
    os.kill(os.getpid(), number)
    return {}


def send_in_step(patch, step: int, number: int) -> None:
    add = Log.add
    patch.setattr(Log, "add", lambda self, n, metrics: add(self, n, metrics) or (n == step and send(number)))


def send_in_checkpoint(patch, step: int, number: int) -> None:
    save = Checkpoints.save

    def begin(self, state, figures=None):
        save(self, state, figures)
        if state.step == step:
            send(number)

    patch.setattr(Checkpoints, "save", begin)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("phase", "at", "saved"),
    [("warm-up", 2, 2), ("step", 9, 9), ("checkpoint", 6, 7), ("picture", 4, 4), ("picture", 12, 12)],
)
def test_a_request_to_stop_saves_in_every_phase_and_the_next_run_continues(tmp_path, number, phase, at, saved):
    seen = []

    def on_picture(step, average, poll):
        if phase == "picture" and step == at and "begun" not in seen:
            seen.append("begun")
            send(number)
            poll()  # as the pictures do between batches
        seen.append(step)
        return {"quality": step}

    with pytest.MonkeyPatch.context() as patch:
        if phase != "picture":
            (send_in_checkpoint if phase == "checkpoint" else send_in_step)(patch, at, number)
        with pytest.raises(Stopped, match=f"{number.name}: saved ddpm at step {saved} of 12") as stopped:
            train(tmp_path / "stopped", 12, on_picture)
    assert stopped.value.status == 128 + number
    for _ in range(2):  # the second run finds nothing left to do
        assert_same(train(tmp_path / "stopped", 12, on_picture), train(tmp_path / "whole", 12))
    assert [step for step in seen if step != "begun"] == [4, 8, 12]  # the interrupted picture is drawn later
    assert {line["step"] for line in read_metrics(tmp_path / "stopped" / "ddpm") if "quality" in line} == {4, 8, 12}


def test_no_step_transfers_anything_between_host_and_devices_implicitly(tmp_path, monkeypatch):
    """JAX refuses implicit transfers while the loop runs. Batches, metrics and pictures are moved explicitly."""

    class Guarded(Stop):
        def __enter__(self):
            self.guard = jax.transfer_guard("disallow")
            self.guard.__enter__()
            return super().__enter__()

        def __exit__(self, *error):
            super().__exit__(*error)
            self.guard.__exit__(*error)

    monkeypatch.setattr(loop, "Stop", Guarded)
    assert int(train(tmp_path, 12).step) == 12


def test_a_request_in_the_last_step_is_not_forgotten(tmp_path, monkeypatch):
    send_in_checkpoint(monkeypatch, 12, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores SIGINT
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 12)
    signal.signal(signal.SIGINT, before)
    assert restore_average(make(12)[0], tmp_path, make_mesh()) is not None


def test_figures_measured_during_training_are_written_to_the_metrics(tmp_path):
    seen = []
    train(tmp_path, 10, lambda step, average, poll: seen.append(step) or {"quality": step / 2})
    assert seen == [4, 8, 10]
    lines = [(line["step"], line["quality"]) for line in read_metrics(tmp_path / "ddpm") if "quality" in line]
    assert lines == [(4, 2), (8, 4), (10, 5)]


def best_of(workdir: Path, steps: int, figures: dict[int, float]) -> tuple[int, float]:
    """Train with these figures at the steps of the pictures. Return the step and the figure of the best state."""
    train(workdir, steps, lambda step, average, poll: {"held_out_loss": figures[step]}, best="held_out_loss")
    with closing(Checkpoints(workdir / "ddpm" / "best")) as checkpoints:
        state = checkpoints.restore(abstract_state(make(steps)[0], make_mesh()))
        assert_same(state, train(workdir / "whole" / str(state.step), int(state.step)))
        return int(state.step), checkpoints.metrics["held_out_loss"]


def test_the_best_state_stays_when_later_ones_are_worse(tmp_path):
    assert best_of(tmp_path, 12, {4: 2.0, 8: 1.0, 12: 3.0}) == (8, 1.0)
    assert_same(restore_average(make(8)[0], tmp_path, make_mesh(), best=True), train(tmp_path / "8", 8).average)
    assert len(list((tmp_path / "ddpm" / "best").iterdir())) == 1


def test_without_the_setting_no_best_state_is_kept(tmp_path):
    train(tmp_path, 4, lambda step, average, poll: {"held_out_loss": 1.0})
    assert not (tmp_path / "ddpm" / "best").exists()
    assert restore_average(make(4)[0], tmp_path, make_mesh(), best=True) is None


def test_a_figure_that_is_not_finite_is_never_the_best(tmp_path):
    assert best_of(tmp_path, 8, {4: math.nan, 8: 5.0}) == (8, 5.0)


def test_a_continued_run_knows_its_best_figure(tmp_path):
    assert best_of(tmp_path, 4, {4: 1.0}) == (4, 1.0)
    assert best_of(tmp_path, 8, {8: 1.5}) == (4, 1.0)
    assert best_of(tmp_path, 12, {12: 0.5}) == (12, 0.5)


def test_a_kill_while_a_best_state_is_written_leaves_the_previous_one(tmp_path):
    best_of(tmp_path, 4, {4: 1.0})
    best = tmp_path / "ddpm" / "best"
    torn = best / "8.orbax-checkpoint-tmp"  # how Orbax names an unfinished checkpoint
    shutil.copytree(best / "4" / "proof", torn / "proof")
    assert best_of(tmp_path, 8, {8: 1.5}) == (4, 1.0)


def test_the_better_of_two_best_states_that_a_kill_left_counts(tmp_path):
    best_of(tmp_path, 4, {4: 1.0})
    best = tmp_path / "ddpm" / "best"
    shutil.copytree(best / "4", tmp_path / "4")
    best_of(tmp_path, 8, {8: 0.5})
    shutil.move(tmp_path / "4", best / "4")  # as if the kill had come before its removal
    assert best_of(tmp_path, 12, {12: 0.7}) == (8, 0.5)


@pytest.mark.parametrize(("again", "kept"), [(0.5, 0.5), (0.4, 0.4), (0.6, 0.5)])
def test_a_run_that_continues_from_before_its_best_state_may_beat_it_at_the_same_step(tmp_path, again, kept):
    best_of(tmp_path, 8, {4: 1.0, 8: 0.5})
    shutil.rmtree(tmp_path / "ddpm" / "checkpoints" / "8")
    assert best_of(tmp_path, 8, {8: again}) == (8, kept)
    assert best_of(tmp_path, 12, {12: 0.3}) == (12, 0.3)


def test_a_corrupt_best_state_is_ignored_and_the_next_one_counts(tmp_path, caplog):
    best_of(tmp_path, 4, {4: 1.0})
    for file in (tmp_path / "ddpm" / "best" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert best_of(tmp_path, 8, {8: 1.5}) == (8, 1.5)
    assert "best/4 is damaged" in caplog.text


def test_the_first_line_states_device_parameters_memory_and_duration(tmp_path, capsys):
    train(tmp_path, 8)
    line = capsys.readouterr().out
    assert line.startswith("ddpm: 8 x cpu, 49 parameters, about ") and " MB a device and " in line
    assert "for the steps 1 to 8 of 8 images" in line
