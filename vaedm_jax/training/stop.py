"""Stopping at SIGTERM, by which clouds and schedulers announce that they take a machine away, and at Ctrl-C."""

import signal
from collections.abc import Callable
from typing import TypeVar

from vaedm_jax.errors import Stopped
from vaedm_jax.runtime import hosts

T = TypeVar("T")
Poll = Callable[[], None]  # raises `Interrupted` if a signal has come


class Interrupted(BaseException):
    """Work that can be repeated ends early; only `Stop.try_to` catches this."""


class Stop:
    """While it is entered, SIGTERM and Ctrl-C set a flag; a second signal acts as usual.

    The training loop polls the flag between steps, and drawing and scoring poll it between batches. The handler never
    raises, so no code of JAX is interrupted.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = 0  # the number of the signal

    def __enter__(self) -> "Stop":
        self.before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked and error is None:  # it came after the last poll
            signal.raise_signal(self.asked)

    def _ask(self, number: int, _: object) -> None:
        self.asked = number
        for s in self.SIGNALS:
            signal.signal(s, self.before[s])

    def request(self, together: bool) -> int:
        """Return the number of a signal that has come to any process, or 0.

        A single process sees a signal at once. Several exchange what came to each, which takes time, only if `together`
        is set; until then this is 0. All of them must call this with the same value.
        """
        if hosts.is_single():
            return self.asked
        return int(hosts.gather(self.asked).max()) if together else 0

    def poll(self) -> None:
        """Raise `Interrupted` if a signal has come. Several processes finish their work together instead."""
        if self.asked and hosts.is_single():
            raise Interrupted

    def try_to(self, action: Callable[[Poll], T]) -> T | None:
        """Return action(poll), or None if a signal comes before it is finished."""
        try:
            self.poll()
            return action(self.poll)
        except Interrupted:
            return None

    @staticmethod
    def check(number: int, name: str, step: int, total: int) -> None:
        """Raise `Stopped` if there was a signal.

        Args:
          number: the number of the signal, or 0.
          name, step, total: the stage, and where it was saved.
        """
        if number:
            why = signal.Signals(number).name
            raise Stopped(f"{why}: saved {name} at step {step:,} of {total:,}; the same command continues", number)
