"""What a person is told of an error, in one line, and the exit status that goes with it."""

import os

import jax

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.runtime import hosts
from vaedm_jax.storage.disk import full_disk

LESS_MEMORY = (
    "training takes less with --config.ddpm.microbatches=2, .remat=True or .precision=bfloat16 (the VAE alike), "
    "sampling with a smaller --config.sample.batch_size"
)


def describe_error(error: BaseException) -> tuple[str, int] | None:
    """The line and the status; None where the error is a defect, whose traceback is wanted.

    1: the run cannot go on. 2: bad input. 130: Ctrl-C. After 143 (SIGTERM) and 75 (another process has ended) the same
    command continues, as it does after a kill.
    """
    if isinstance(error, UserError | RunError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if full := full_disk(error):
        place = getattr(error, "filename", None) or "disk"
        return f"{place}: {os.strerror(full)}; free some space, and the same command continues", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 2
    if isinstance(error, jax.errors.JaxRuntimeError):
        what = ": ".join(dict.fromkeys(str(error).partition("\n")[0].split(": ")))
        if "RESOURCE_EXHAUSTED" in what:
            return f"the device's memory is full ({what}); {LESS_MEMORY}", 1
        if not hosts.alone():
            return f"{hosts.GONE} ({what})", os.EX_TEMPFAIL
    return None
