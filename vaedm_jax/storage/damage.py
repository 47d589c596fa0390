"""The error that all readers raise for a file that cannot be used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vaedm_jax.errors import UserError
from vaedm_jax.storage.paths import opened, shown


class Damaged(UserError):
    """An error for a file that is missing, truncated, damaged or of another form.

    Attributes:
      why: the reason in a few words, without the file's name.
    """

    def __init__(self, path: str | os.PathLike, why: str):
        super().__init__(f"{shown(path)}: {why}")
        self.why = why


@contextmanager
def reading(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Raise `Damaged` for any error inside the block. Libraries raise all kinds of errors on damaged files.

    Args:
      path: the file that is read.
      what: the kind of the file, for the message.
    """
    try:
        yield
    except Damaged:
        raise
    except UserError as error:
        raise Damaged(path, str(error)) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(path, f"it is not a valid {what} ({shown(reason[:200])})") from error


def read_bytes(path: str | os.PathLike, what: str, most: int) -> bytes:
    """Return the content of a file; raise `Damaged` if it is no regular file or has more than `most` bytes."""
    with reading(path, what), opened(path, what) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Damaged(path, f"it has more than {most:,} bytes, which is too many for a {what}")
    return data
