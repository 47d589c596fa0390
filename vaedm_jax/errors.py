"""The two errors that a person sees as one line, without a traceback."""


class UserError(Exception):
    """Bad input. Its message says what, where, and what would be right; the exit status is 2."""


class RunError(Exception):
    """A run that cannot go on (a loss that is not finite, a full disk); the exit status is 1."""
