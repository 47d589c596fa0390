"""SIGTERM, by which clouds and schedulers announce that they take a machine away, and Ctrl-C."""

import signal
from collections.abc import Callable
from typing import TypeVar

from vaedm_jax.errors import Stopped
from vaedm_jax.runtime import hosts

T = TypeVar("T")


class Interrupted(BaseException):
    """Ends what may be given up; nobody else catches it."""


class Stop:
    """Turns SIGTERM and Ctrl-C into a request to save and stop, while it is entered; a second one stops at once.

    Where nothing is to be saved (while a program compiles, samples or is evaluated) SIGTERM ends the process, which
    leaves no file half-written.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = 0
        self._interrupts = False

    def __enter__(self) -> "Stop":
        self.before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked and error is None:  # it came when nobody looked any more
            signal.raise_signal(self.asked)

    def _ask(self, number: int, _: object) -> None:
        self.asked = number
        for s in self.SIGNALS:
            signal.signal(s, self.before[s])
        if self._interrupts:
            raise Interrupted

    def agreed(self) -> int:
        """The number of a signal that any process was sent, or 0: they stop at one step. All must ask at once."""
        return int(hosts.gather(self.asked).max())

    def unless(self, action: Callable[[], T]) -> T | None:
        """action(), or None where a signal comes before it is done; several processes finish it together."""
        if self.asked and hosts.alone():
            return None
        try:
            self._interrupts = hosts.alone()
            return action()
        except Interrupted:
            return None
        finally:
            self._interrupts = False

    @staticmethod
    def check(number: int, name: str, step: int, total: int) -> None:
        """Stopped, if it was asked for."""
        if number:
            why = signal.Signals(number).name
            raise Stopped(f"{why}: saved {name} at step {step:,} of {total:,}; the same command continues", number)
