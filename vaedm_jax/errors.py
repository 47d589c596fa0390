"""The errors that a person sees as one line, without a traceback."""

import math
import numbers
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class UserError(Exception):
    """Bad input. Its message says what, where, and what would be right; the exit status is 2."""

    status = 2


class Range(NamedTuple):
    """The values that a number may have: from `low` to `high`, both included; whole numbers where `low` is whole.

    `why` says why it must not be higher, where that is not plain.
    """

    low: float
    high: float
    why: str = ""


def brief(value: Any, most: int = 120) -> str:
    """Return a value as a message shows it: as text, cut off where it is long."""
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """UserError unless the value is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} = {brief(repr(value))}: it must be one of {', '.join(allowed)}")


def in_range(name: str, value: Any, low: float, high: float = math.inf, why: str = "") -> None:
    """UserError unless the value, or each of a tuple, is a finite number from `low` to `high`; whole if `low` is.

    `why` is said where a number is too high; see `Range`.
    """
    kind, what = (numbers.Integral, "a whole number") if isinstance(low, int) else (numbers.Real, "a number")
    for number in value if isinstance(value, tuple) else (value,):
        valid = isinstance(number, kind) and not isinstance(number, bool)
        if valid and low <= number <= high and number != math.inf:
            continue
        wanted = f"{low} or more" if why or high == math.inf else f"from {low} to {high}"
        if valid and why and number > high:
            wanted = f"at most {high:,}, since {why}"
        shown = repr(number) if isinstance(number, str) else number
        raise UserError(f"{name} = {brief(value)}: {brief(shown)} should be {what}, {wanted}")


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a full disk); the exit status is 1."""

    status = 1


class Stopped(RunError):
    """A run that a signal has asked to stop, and that the same command continues; the exit status is a shell's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Put the name of the setting before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{setting}{error}") from error
