"""The errors that are shown as one line without a traceback, and checks that raise them."""

import math
import numbers
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class UserError(ValueError):
    """An error for bad input. The message says what is wrong, where, and what would be right. The exit status is 2."""

    status = 2


class Range(NamedTuple):
    """The range of a number: from `low` to `high`, both included. Only whole numbers are allowed if `low` is an int.

    Attributes:
      low: the smallest value.
      high: the largest value.
      why: the reason for `high`, if it is not obvious, for messages.
    """

    low: float
    high: float
    why: str = ""


def brief(value: Any, most: int = 120) -> str:
    """Return a value as text for a message, cut after `most` characters."""
    try:
        text = str(value)
    except ValueError:  # Python does not convert integers with more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise UserError unless the value is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} = {brief(repr(value))}: it must be one of {', '.join(allowed)}")


def check_range(name: str, value: Any, low: float, high: float = math.inf, why: str = "") -> None:
    """Raise UserError unless a value, or each number of a tuple, is finite and in a range.

    Args:
      name: the name of the setting, for the message.
      value: a number, or a tuple of numbers.
      low, high, why: the range; see `Range`.
    """
    kind, what = (numbers.Integral, "a whole number") if isinstance(low, int) else (numbers.Real, "a number")
    for number in value if isinstance(value, tuple) else (value,):
        valid = issubclass(type(number), kind) and not isinstance(number, bool)
        if valid and low <= number <= high and number != math.inf:
            continue
        wanted = f"{low} or more" if why or high == math.inf else f"from {low} to {high}"
        if valid and why and number > high:
            wanted = f"at most {high:,}, since {why}"
        shown = repr(number) if isinstance(number, str) else number
        raise UserError(f"{name} = {brief(value)}: {brief(shown)} should be {what}, {wanted}")


class RunError(Exception):
    """An error for a run that cannot continue, such as a loss that is not finite. The exit status is 1."""

    status = 1


class Stopped(RunError):
    """An error for a run that a signal has stopped. The same command continues it.

    The exit status is 128 plus the number of the signal, as in a shell.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def prefix_errors(setting: str) -> Iterator[None]:
    """Put the name of a setting before the message of a UserError that is raised inside the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{setting}{error}") from error


def reason(error: BaseException) -> str:
    """Return the first line of the message of an exception, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
