"""Where this package keeps what it can make anew: compiled programs, drawn faces."""

import os
import stat
import tempfile
from pathlib import Path

NAME = "vaedm_jax"


def compiled_programs() -> str | None:
    """Return the folder for what JAX compiles: `JAX_COMPILATION_CACHE_DIR`, else that of the user."""
    if (named := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is not None:
        return named or None
    return user_cache()


def user_cache() -> str | None:
    """Return the folder of this package among a user's caches: the first that there is of these, else None.

    `vaedm_jax` in `XDG_CACHE_HOME`, or in `.cache` of the home; a folder of this user's own in the temporary one, since
    a user that no system knows, as in containers, has no home.
    """
    if os.path.isabs(xdg := os.environ.get("XDG_CACHE_HOME", "")):  # others are to be ignored, its standard says
        return os.path.join(xdg, NAME)
    try:
        return str(Path.home() / ".cache" / NAME)
    except RuntimeError:
        return temporary()


def temporary() -> str | None:
    """Return a folder that nobody else can write to: what lies in it is run."""
    try:
        folder = os.path.join(tempfile.gettempdir(), f"{NAME}-{os.getuid()}")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if own else None
