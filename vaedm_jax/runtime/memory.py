"""The memory that this process may use, and the check that data fits into it."""

import os
from collections.abc import Iterator
from pathlib import Path

from vaedm_jax.errors import UserError

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def check_fits(what: str, needs: int) -> None:
    """Raise UserError if this process may use less memory than needed.

    Args:
      what: what needs the memory, for the message.
      needs: the number of bytes.
    """
    if needs > (memory := memory_bytes()):
        raise UserError(f"{what}: needs {needs / 2**30:,.1f} GiB of memory, but this machine has {memory / 2**30:,.1f}")


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or of its container if fewer."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits())


def limits(cgroups: Path = CGROUPS, own: Path = OWN) -> Iterator[int]:
    """Yield the limits in bytes that Linux's control groups set to the memory of this process.

    Containers and schedulers such as Slurm set them.

    Args:
      cgroups: where the groups are mounted.
      own: the file that names the groups of this process.
    """
    try:
        groups = [line.split(":", 2)[1:] for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for controllers, place in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        # Version 1 has a tree for each controller; version 2 has one tree, and names no controller.
        root, name = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
        folder = root / place.lstrip("/")
        for parent in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            try:
                yield int((parent / name).read_text())
            except (OSError, ValueError):  # not there, as seen from inside a container, or "max"
                pass
