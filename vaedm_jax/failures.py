"""What a person is told of an error, in one line, and the exit status that goes with it."""

import errno
import os

import jax

from vaedm_jax import hosts
from vaedm_jax.errors import RunError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LESS_MEMORY = (
    "training takes less with --config.ddpm.microbatches=2, .remat=True or .precision=bfloat16 (the VAE alike), "
    "sampling with a smaller --config.sample.batch_size"
)


def told(error: BaseException) -> tuple[str, int] | None:
    """The line and the status; None where the error is a defect, whose traceback is wanted.

    1: the run cannot go on. 2: bad input. 130: Ctrl-C. After 143 (SIGTERM) and 75 (another process has ended) the same
    command continues, as it does after a kill.
    """
    if isinstance(error, UserError | RunError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        full = error.errno in FULL
        advice = "; free some space, and the same command continues" if full else ""
        return f"{error.filename or 'disk'}: {error.strerror}{advice}", 1 if full else 2
    if isinstance(error, jax.errors.JaxRuntimeError):
        what = ": ".join(dict.fromkeys(str(error).partition("\n")[0].split(": ")))
        if "RESOURCE_EXHAUSTED" in what:
            return f"the device's memory is full ({what}); {LESS_MEMORY}", 1
        if not hosts.alone():
            return f"{hosts.GONE} ({what})", os.EX_TEMPFAIL
    return None
