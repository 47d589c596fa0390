"""The progress of a long run: a bar on a terminal, or occasional lines in a log."""

import io
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from vaedm_jax.storage.writing import is_writer

NOTEBOOK = "ipykernel.iostream"  # its streams are not terminals, but can show a bar
WINDOW = 60.0  # seconds over which the speed is measured
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, such as `1 picture` or `1,200 pictures`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def is_ready(value: Any) -> bool:
    """Return whether a number is available without waiting for a device."""
    return getattr(value, "is_ready", lambda: True)()  # only JAX arrays have this method


class Progress:
    """A display of the step, the loss if there is one, the speed and the time left, on stderr; a context manager.

    On a terminal and in a notebook it is a bar. Elsewhere (a log, a CI job) it is a plain line, at most every ten
    seconds. The speed is measured from the first step that ends here, so that earlier steps and compilation do not
    count.

    Args:
      total: the number of steps of the whole run.
      start: the number of steps that were done before, by the run that this one continues.
      label: the text before the step. The attribute `label` may be changed at any time.
      images_per_step: the number of units in a step.
      noun: the name of a step.
      unit: the name of the units whose speed is shown.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        label: str = "",
        images_per_step: int = 1,
        noun: str = "step",
        unit: str = "images",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream, self._clock = stream or (sys.stderr if is_writer() else io.StringIO()), clock
        self._total, self._images, self._noun, self._unit = total, images_per_step, noun, unit
        self.label = label
        self._marks: deque[tuple[float, int]] = deque()  # (time, step) of each update of the display within the window
        self._step, self._shown_step = start, start
        self._losses: deque[tuple[int, Any]] = deque()  # (step, loss) of the steps that may not be done yet
        self._bar = None
        if self._stream.isatty() or type(self._stream).__module__ == NOTEBOOK:
            self._bar = tqdm(
                total=total, initial=start, desc=label, file=self._stream, bar_format=BAR, dynamic_ncols=True
            )
        self._interval = 0.2 if self._bar is not None else 10.0

    def update(self, step: int, loss: Any = None) -> None:
        """Record that `step` steps are done or under way.

        Args:
          loss: the loss of the last of these steps, if there is one. It may be an array that a device still computes.
            The display shows the newest step with a computed loss, so it waits only for the last step of the run.
        """
        if loss is None:
            self._step = step
        else:
            self._losses.append((step, loss))
        if not self._marks or step >= self._total or self._clock() - self._marks[-1][0] >= self._interval:
            self._show(wait=step >= self._total)

    @property
    def images_per_s(self) -> float | None:
        """The speed over the last minute, as last shown; None before the second update of the display."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        (t0, first), (t1, last) = self._marks[0], self._marks[-1]
        return self._images * (last - first) / (t1 - t0)

    def close(self) -> None:
        """Show the last step if it was not shown, and move the terminal to a new line."""
        if self._losses or self._step != self._shown_step:
            self._show(wait=True)
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _show(self, wait: bool) -> None:
        """Show the newest step that is done; with `wait`, wait for the newest step and show it."""
        facts, done = [], [pair for pair in self._losses if wait or is_ready(pair[1])]
        if self._losses and not done:
            return
        if done:
            self._step, loss = done[-1]
            while self._losses and self._losses[0][0] <= self._step:
                self._losses.popleft()
            facts = [f"loss {float(loss):.4g}"]  # may wait for the device, so the clock is read after it
        self._marks.append((self._clock(), self._step))
        while len(self._marks) > 2 and self._marks[-1][0] - self._marks[1][0] >= WINDOW:
            self._marks.popleft()
        self._shown_step = self._step

        if speed := self.images_per_s:
            left = (self._total - self._step) * self._images / speed
            facts += [f"{speed:{'.3g' if speed < 100 else ',.0f'}} {self._unit}/s"]
            facts += [f"{tqdm.format_interval(left)} left"]
        if self._bar is not None:
            self._bar.set_description_str(self.label, refresh=False)
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            self._bar.n = self._step
            self._bar.refresh()
        else:
            print(
                f"{self.label}: {self._noun} {self._step}/{self._total}",
                *facts,
                sep=", ",
                file=self._stream,
                flush=True,
            )
