"""Folders for files that can be made again: compiled programs and drawn faces."""

import os
import stat
import tempfile
from pathlib import Path

NAME = "vaedm_jax"


def compiled_programs() -> str | None:
    """Return the folder of JAX's compilation cache, or None if there is none.

    It is `JAX_COMPILATION_CACHE_DIR` if that is set, where an empty value means no cache; otherwise `user_cache()`.
    """
    if (named := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is not None:
        return named or None
    return user_cache()


def user_cache() -> str | None:
    """Return the cache folder of this package for the current user, or None if there is none.

    It is the first that is available of: `vaedm_jax` in `XDG_CACHE_HOME`; `vaedm_jax` in `.cache` of the home
    directory; a private folder in the system's temporary directory. In containers a user may have no home directory.
    """
    if os.path.isabs(xdg := os.environ.get("XDG_CACHE_HOME", "")):  # the XDG standard ignores relative paths
        return os.path.join(xdg, NAME)
    try:
        return str(Path.home() / ".cache" / NAME)
    except RuntimeError:
        return temporary_folder()


def temporary_folder() -> str | None:
    """Return a temporary folder that only this user can write to, or None. Cached programs in it are executed."""
    try:
        folder = os.path.join(tempfile.gettempdir(), f"{NAME}-{os.getuid()}")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if own else None
