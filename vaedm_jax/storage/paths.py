"""Paths that users write, what lies there, and how a name is printed.

A name can hold any bytes but a slash and a zero: new lines, escape sequences, bytes that are not UTF-8. What lies there
can be a pipe, from which a reader waits for ever. Every path of a user goes through this module.
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


def shown(name: str | os.PathLike) -> str:
    r"""Return a name, or any text, as it is printed: on one line, with what cannot be printed escaped.

    A new line becomes `\n`, a byte that is not UTF-8 `\xff`. What can be printed stays as it is.
    """
    return "".join(c if c.isprintable() else escaped(c) for c in os.fspath(name))


def escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # Python's way to keep a byte of a name that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def path_of(written: str | os.PathLike, setting: str) -> Path:
    """Return what a user has written as an absolute path, with `~` and `~name` expanded. Nothing need be there.

    A path that came from here comes back as it is.

    Args:
      setting: what the path was given as, such as `data.path` or `--workdir`.

    Raises:
      UserError: there is no such user, or no file can have such a name.
    """
    text = os.fspath(written)
    if not text:
        raise UserError(f"{setting} is empty; give a path")
    if "\0" in text:
        raise UserError(f"{setting}: {shown(text)}: no name of a file can hold a zero byte")
    text = os.path.expanduser(text)
    if text.startswith("~"):  # as it was; a folder of such a name is written ./~name
        user = shown(text.partition("/")[0])
        raise UserError(f"{setting}: {shown(text)}: no home directory of '{user}' is known; write the path in full")
    try:
        path = Path(text).absolute()
    except FileNotFoundError as error:
        raise UserError(f"{setting}: {shown(text)}: the working directory is gone; give an absolute path") from error
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{setting}: {brief(shown(path))}: the name is too long") from error
    except ValueError as error:  # what the encoding of file names cannot express
        raise UserError(f"{setting}: {shown(text)}: no file can have this name ({error})") from error
    return path


def regular_file(path: str | os.PathLike, setting: str, missing: str = GONE) -> Path:
    """Return the absolute path; UserError unless a regular file is there, or a link to one.

    `missing` is what the error says of the path where nothing is there.
    """
    return expected(path, setting, stat.S_IFREG, missing)


def folder(path: str | os.PathLike, setting: str, missing: str = GONE) -> Path:
    """Return the absolute path; UserError unless a folder is there, or a link to one.

    `missing` is what the error says of the path where nothing is there.
    """
    return expected(path, setting, stat.S_IFDIR, missing)


def opened(path: str | os.PathLike, setting: str, missing: str = GONE) -> BinaryIO:
    """Open a regular file for reading bytes; UserError where it is none, or cannot be opened. It never waits."""
    path = regular_file(path, setting, missing)
    try:
        # Without O_NONBLOCK it would wait for ever where a pipe has taken the file's place just now.
        file = open(os.fspath(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        raise UserError(f"{setting}: {shown(path)} {obstacle(path, error, missing)}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{setting}: {shown(path)} is no regular file; give one")
    return file


def expected(path: str | os.PathLike, setting: str, kind: int, missing: str) -> Path:
    """Return the absolute path; UserError unless what is there is of that kind, links followed."""
    path = path_of(path, setting)
    try:
        found = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        raise UserError(f"{setting}: {shown(path)} {obstacle(path, error, missing)}") from error
    if found != kind:
        raise UserError(f"{setting}: {shown(path)} is {KINDS.get(found, 'something else')}; give {KINDS[kind]}")
    return path


def obstacle(path: Path, error: OSError, missing: str) -> str:
    """Return why nothing can be read at a path, as what follows its name in a sentence."""
    if error.errno == errno.ELOOP:
        return "is a link that leads to itself"
    if error.errno == errno.ENOENT and path.is_symlink():
        return f"is a link to {shown(os.readlink(path))}, which is not there"
    if error.errno == errno.ENOENT:
        return missing
    if error.errno == errno.ENOTDIR:
        return f"{GONE}: a part of this path is a file, not a folder"
    return f"cannot be read ({error.strerror or error})"
