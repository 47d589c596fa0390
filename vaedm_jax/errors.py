"""The errors that a person sees as one line, without a traceback."""

import math
import numbers
from collections.abc import Collection
from typing import Any


class UserError(Exception):
    """Bad input. Its message says what, where, and what would be right; the exit status is 2."""

    status = 2


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """UserError unless the value is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} = {value!r}: it must be one of {', '.join(allowed)}")


def in_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """UserError unless the value, or each of a tuple, is a finite number from `low` to `high`; whole if `low` is."""
    kind, what = (numbers.Integral, "a whole number") if isinstance(low, int) else (numbers.Real, "a number")
    for number in value if isinstance(value, tuple) else (value,):
        valid = isinstance(number, kind) and not isinstance(number, bool) and low <= number <= high
        if not (valid and math.isfinite(number)):
            wanted = f"{low} or more" if high == math.inf else f"from {low} to {high}"
            raise UserError(f"{name} = {value}: {number!r} should be {what}, {wanted}")


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a full disk); the exit status is 1."""

    status = 1


class Stopped(RunError):
    """A run that a signal has asked to stop, and that the same command continues; the exit status is a shell's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number
