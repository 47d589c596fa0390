"""The one-line message and the exit status for an error."""

import os

import jax

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.runtime import hosts
from vaedm_jax.storage.disk import full_disk

LESS_MEMORY = (
    "training needs less with --config.ddpm.microbatches=2, .remat=True or .precision=bfloat16 (also for the VAE); "
    "sampling needs less with a smaller --config.sample.batch_size"
)


def describe_error(error: BaseException) -> tuple[str, int] | None:
    """Return the message and the exit status for an error, or None if it is a defect and needs a traceback.

    The statuses are 1 (the run cannot continue), 2 (bad input), 75 (another process has ended), 130 (Ctrl-C) and
    143 (SIGTERM). After 75 and 143, as after a kill, the same command continues the run.
    """
    if isinstance(error, UserError | RunError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if full := full_disk(error):
        place = getattr(error, "filename", None) or "disk"
        return f"{place}: {os.strerror(full)}; free some space, and the same command continues the run", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 2
    if isinstance(error, jax.errors.JaxRuntimeError):
        what = ": ".join(dict.fromkeys(str(error).partition("\n")[0].split(": ")))
        if "RESOURCE_EXHAUSTED" in what:
            return f"the device's memory is full ({what}); {LESS_MEMORY}", 1
        if not hosts.is_single():
            return f"{hosts.GONE} ({what})", os.EX_TEMPFAIL
    return None
