"""The memory of this machine, and what must fit into it."""

import os

from vaedm_jax.errors import UserError


def check_fits(what: str, needs: int) -> None:
    """UserError where so many bytes are more than the memory of this machine."""
    if needs > (memory := memory_bytes()):
        raise UserError(
            f"{what}: {needs / 2**30:,.1f} GiB would be held in memory at once, and there are {memory / 2**30:,.1f}"
        )


def memory_bytes() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
