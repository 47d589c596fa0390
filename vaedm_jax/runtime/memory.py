"""The memory of this machine, and the check that data fits into it."""

import os

from vaedm_jax.errors import UserError


def check_fits(what: str, needs: int) -> None:
    """Raise UserError if this machine has less memory than needed.

    Args:
      what: what needs the memory, for the message.
      needs: the number of bytes.
    """
    if needs > (memory := memory_bytes()):
        raise UserError(f"{what}: needs {needs / 2**30:,.1f} GiB of memory, but this machine has {memory / 2**30:,.1f}")


def memory_bytes() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
