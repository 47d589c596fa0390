"""Checks of paths that users give, and the printing of names.

A file name can contain any byte except a slash and zero: newlines, escape sequences, invalid UTF-8. A path can lead to
a pipe, from which a reader would wait for ever. So every path that a user gives goes through this module.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from vaedm_jax.errors import UserError, brief

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
GONE = "is not there"
PathLike = str | os.PathLike[str]


def shown(name: PathLike) -> str:
    r"""Return a name, or any text, on one line: characters that cannot be printed are escaped.

    A newline becomes `\n`; a byte that is not valid UTF-8 becomes `\xff`, for example.
    """
    return "".join(c if c.isprintable() else escape(c) for c in os.fspath(name))


def escape(character: str) -> str:
    """Return the escape sequence of a character."""
    byte = ord(character) - 0xDC00  # Python represents a byte that is not UTF-8 by a surrogate
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def resolve_path(written: PathLike, setting: str) -> Path:
    """Return a path as an absolute path, with `~` and `~name` expanded. It need not exist.

    A path that this function has returned is returned unchanged.

    Args:
      written: the path, as the user has written it.
      setting: the name of the setting or flag, such as `data.path` or `--workdir`, for messages.

    Raises:
      UserError: there is no such user, or no file can have such a name.
    """
    text = os.fspath(written)
    if not text:
        raise UserError(f"{setting} is empty; it must be a path")
    if "\0" in text:
        raise UserError(f"{setting}: {shown(text)}: a file name cannot contain a zero byte")
    text = os.path.expanduser(text)
    if text.startswith("~"):  # nothing was expanded; a folder of such a name is written ./~name
        user = shown(text.partition("/")[0])
        raise UserError(f"{setting}: {shown(text)}: the home directory of '{user}' is unknown; give the full path")
    try:
        path = Path(text).absolute()
    except FileNotFoundError as error:
        raise UserError(f"{setting}: {shown(text)}: the working directory is gone; give an absolute path") from error
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{setting}: {brief(shown(path))}: the name is too long") from error
    except ValueError as error:  # the encoding of file names cannot express it
        raise UserError(f"{setting}: {shown(text)}: no file can have this name ({error})") from error
    return path


def regular_file(path: PathLike, setting: str, missing: str = GONE) -> Path:
    """Return the absolute path; raise UserError unless it is a regular file or a link to one.

    Args:
      path: the path, as the user has written it.
      setting: the name of the setting or flag, for messages.
      missing: the end of the message, after the path, if the path does not exist.
    """
    return check_kind(path, setting, stat.S_IFREG, missing)


def folder(path: PathLike, setting: str, missing: str = GONE) -> Path:
    """Return the absolute path; raise UserError unless it is a folder or a link to one. See `regular_file`."""
    return check_kind(path, setting, stat.S_IFDIR, missing)


def opened(path: PathLike, setting: str, missing: str = GONE) -> BinaryIO:
    """Open a regular file for reading bytes, without ever waiting. The arguments are those of `regular_file`.

    Raises:
      UserError: it is no regular file, or cannot be opened.
    """
    path = regular_file(path, setting, missing)
    try:
        # Without O_NONBLOCK this would wait for ever if a pipe has replaced the file since it was checked.
        file = open(os.fspath(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        raise UserError(f"{setting}: {shown(path)} {obstacle(path, error, missing)}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{setting}: {shown(path)} is no regular file; give the path of a regular file")
    return file


def check_kind(path: PathLike, setting: str, kind: int, missing: str) -> Path:
    """Return the absolute path; raise UserError unless it, with links followed, is of a kind of KINDS."""
    path = resolve_path(path, setting)
    try:
        found = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        raise UserError(f"{setting}: {shown(path)} {obstacle(path, error, missing)}") from error
    if found != kind:
        raise UserError(f"{setting}: {shown(path)} is {KINDS.get(found, 'something else')}; give {KINDS[kind]}")
    return path


def obstacle(path: Path, error: OSError, missing: str) -> str:
    """Return why a path cannot be read, as the end of a sentence that begins with the path."""
    if error.errno == errno.ELOOP:
        return "is a link that leads to itself"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"is a link to {shown(os.readlink(path))}, which is not there"
    if error.errno == errno.ENOENT:
        return missing
    if error.errno == errno.ENOTDIR:
        return f"{GONE}: a part of this path is a file, not a folder"
    return f"cannot be read ({error.strerror or error})"
