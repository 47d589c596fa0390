"""Detection of a full disk, which libraries report in different ways."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full_disk(error: BaseException) -> int | None:
    """Return the error number if an error, by number or by its text, says that the disk is full; otherwise None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL else None
    return next((number for number in FULL if os.strerror(number) in str(error)), None)


@contextmanager
def writing(path: str | os.PathLike, beside: str | os.PathLike | None = None) -> Iterator[None]:
    """Raise an OSError with the file's name if an error in the block says that the disk is full.

    Args:
      path: the file that is written.
      beside: a temporary file that is written first. It is removed after any error, since it takes space.
    """
    try:
        yield
    except BaseException as error:
        if beside is not None:
            try:
                os.unlink(beside)
            except OSError:
                pass
        if isinstance(error, Exception) and (number := full_disk(error)):
            raise OSError(number, os.strerror(number), os.fspath(path)) from error
        raise
