"""Progress is a bar on a terminal and plain lines in a log, with speed and time left."""

import io
import re

import pytest

from vaedm_jax import reporting


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_steps(stream, first, last, seconds, total=None, start=0):
    """Return what is shown for the steps `first` to `last`, each of which takes `seconds`."""
    clock = Clock()
    with reporting.Progress(total or last, start, "vae", images_per_step=32, stream=stream, clock=clock) as progress:
        for step in range(first, last + 1):
            clock.now += seconds
            progress.update(step, 2.0 / step)
    return stream.getvalue()


def test_a_log_gets_a_plain_line_every_ten_seconds():
    lines = run_steps(io.StringIO(), 1, 100, seconds=0.5).split("\n")
    steps = [int(re.search(r"step (\d+)/100", line)[1]) for line in lines[:-1]]
    assert steps == [1, 21, 41, 61, 81, 100] and lines[-1] == ""
    assert lines[1] == "vae: step 21/100, loss 0.09524, 64 images/s, 00:39 left"
    assert not any("\r" in line or "|" in line for line in lines)


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left():
    shown = run_steps(Terminal(), 1, 50, seconds=1.0, total=110)
    last = shown.rstrip().split("\r")[-1]
    assert "vae" in last and "50/110" in last and "loss 0.04, 32 images/s, 01:00 left" in last


def test_speed_does_not_count_the_steps_before_a_resume():
    lines = run_steps(io.StringIO(), 9001, 9100, seconds=1.0, start=9000).splitlines()
    assert "images/s" not in lines[0]
    assert all("32 images/s" in line for line in lines[1:]) and "01:29 left" in lines[1]


def test_speed_is_that_of_the_last_minute():
    clock = Clock()
    progress = reporting.Progress(1000, 0, "vae", images_per_step=10, stream=io.StringIO(), clock=clock)
    assert progress.images_per_s is None
    for step in range(1, 301):
        clock.now += 10 if step <= 100 else 1
        progress.update(step, 0.0)
    assert progress.images_per_s == pytest.approx(10)


def test_a_loss_is_fetched_only_when_it_is_shown():
    class Loss:
        fetched = 0

        def __float__(self):
            Loss.fetched += 1
            return 0.5

    stream, clock = io.StringIO(), Clock()
    with reporting.Progress(1000, 0, "ddpm", stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 0.25
            progress.update(step, Loss())
    assert Loss.fetched == stream.getvalue().count("\n") == 4, "at 0, 10 and 20 s, and at the end"


def test_the_display_never_waits_for_a_step_that_is_under_way():
    """The device is three steps behind. Only the last step of the training is waited for."""
    under_way, waited = set(), []

    class Loss:
        def __init__(self, step):
            self.step = step
            under_way.add(step)
            under_way.discard(step - 3)

        def is_ready(self):
            return self.step not in under_way

        def __float__(self):
            if self.step in under_way:
                waited.append(self.step)
            return float(self.step)

    stream, clock = io.StringIO(), Clock()
    with reporting.Progress(100, 0, "ddpm", images_per_step=2, stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 1.0
            progress.update(step, Loss(step))
    lines = stream.getvalue().splitlines()
    assert [re.search(r"step (\d+)/100, loss (\d+)", line).groups() for line in lines[:3]] == [
        ("1", "1"),
        ("11", "11"),
        ("21", "21"),
    ]
    assert "step 100/100, loss 100" in lines[-1] and waited == [100]
    assert all("2 images/s" in line for line in lines[1:-1]), "the speed is that of steps which are done"
