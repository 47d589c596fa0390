"""A full disk, which libraries report in their own ways."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full_disk(error: BaseException) -> int | None:
    """Return the error number where an error says that the disk is full, be it in its text alone; else None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL else None
    return next((number for number in FULL if os.strerror(number) in str(error)), None)


@contextmanager
def writing(path: str | os.PathLike, beside: str | os.PathLike | None = None) -> Iterator[None]:
    """Make whatever is raised on a full disk an OSError that names the file.

    Args:
      beside: what was written first, in the file's place; it is removed where that fails, since it takes space.
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
