"""The two errors that a person sees as one line, without a traceback."""

from collections.abc import Collection
from typing import Any


class UserError(Exception):
    """Bad input. Its message says what, where, and what would be right; the exit status is 2."""


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """UserError unless the value is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} = {value!r}: it must be one of {', '.join(allowed)}")


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a full disk); the exit status is 1."""
