"""Find the images in a folder and its subfolders, and report the files that are left out."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vaedm_jax.errors import UserError
from vaedm_jax.storage.layout import FOLDERS, is_run
from vaedm_jax.storage.paths import shown

COMMON = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # the only ones that older versions read
# Formats of Pillow that are not still pictures of 8 or 16 bits: vector graphics, which other programs render; videos;
# tables of measurements; containers.
UNFIT = {"EPS", "WMF", "PDF", "MPEG", "FLI", "GRIB", "BUFR", "HDF5", "FITS", "IPTC"}
UNFIT_ENDINGS = {".pfm", ".vst"}  # floats of unknown range; mostly drawings of Visio


class Found(NamedTuple):
    """The files in a folder and its subfolders.

    Attributes:
      names: the sorted paths of the images, relative to the folder and with slashes, without hidden files.
      left: the number of other files, by extension.
      runs: the run directories, which are left out.
    """

    names: list[str]
    left: Counter[str]
    runs: list[str]


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that are read, in the order in which Pillow tries them."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in UNFIT)


@cache
def endings() -> frozenset[str]:
    """Return the extensions of the formats that are read, such as `.jpg`."""
    known = {*formats(), "MPO"}  # Pillow reads MPO, a format of some cameras, as JPEG
    return frozenset(e for e, name in Image.registered_extensions().items() if name in known) - UNFIT_ENDINGS


def images_under(root: Path, setting: str, every_format: bool = True) -> Found:
    """Return the images in a folder and its subfolders, and print a note on what is left out.

    Links do not add a file twice: it is listed under its own name, else under the first link to it.

    Args:
      setting: the setting that names the folder.
      every_format: if False, as in older versions, only the extensions of COMMON are taken, and links to folders are
        not followed.

    Raises:
      UserError: a folder cannot be listed.
    """
    wanted = endings() if every_format else COMMON
    names, linked, left, runs, places = [], [], Counter(), [], set()
    for inside, entries in folders(root, setting, runs, follow=every_format):
        for entry in entries:
            name = (inside / entry.name).as_posix()
            ending = os.path.splitext(entry.name)[1].lower()
            if ending not in wanted:
                left[ending] += 1
            elif every_format and entry.is_symlink():
                linked.append((name, os.path.realpath(entry.path)))
            else:
                places.add(os.path.join(os.path.realpath(root / inside), entry.name) if every_format else name)
                names.append(name)
    for name, place in sorted(linked):
        if place not in places:
            places.add(place)
            names.append(name)
    found = Found(sorted(names), left, sorted(runs))
    if names:
        report_left_out(found, root, setting)
    return found


def folders(root: Path, setting: str, runs: list[str], follow: bool) -> Iterator[tuple[Path, list[os.DirEntry]]]:
    """Yield each folder once, relative to `root`, with its files that are not hidden.

    Folders behind links come last. Run directories are added to `runs` and left out. If `root` itself is a run
    directory, only the folders that the run has written are left out.

    Args:
      follow: follow links to folders.
    """
    pending, links, seen = deque([Path()]), [], set()
    while pending or links:
        if not pending:
            links.sort(reverse=True)
            pending.append(links.pop())
        inside = pending.popleft()
        if follow:
            place = os.path.realpath(root / inside)
            if place in seen:
                continue
            seen.add(place)
        own = is_run(root / inside)
        if own:
            runs.append(inside.as_posix())
            if inside != Path():
                continue
        files = []
        for entry in list_entries(root / inside, setting):
            if entry.name.startswith("."):
                continue
            if not is_folder(entry):
                files.append(entry)
            elif not entry.is_symlink():
                if not (own and entry.name in FOLDERS):
                    pending.append(inside / entry.name)
            elif follow:
                links.append(inside / entry.name)
        yield inside, files


def list_entries(folder: Path, setting: str) -> list[os.DirEntry]:
    """Return the entries of a folder, sorted by name; raise UserError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{setting}: {shown(folder)} cannot be listed ({error.strerror})") from error


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def report_left_out(found: Found, root: Path, setting: str) -> None:
    """Print a note for each run directory that was left out, and one for the other files."""
    for name in found.runs:
        print(f"note: {setting}: {shown(root / name)} is a run directory; its pictures are left out", flush=True)
    if count := found.left.total():
        kinds = ", ".join(f"{n:,} {shown(e) if e else 'without an extension'}" for e, n in found.left.most_common(8))
        others = f", {len(found.left) - 8} more extensions" if len(found.left) > 8 else ""
        files = "file that is not an image" if count == 1 else "files that are not images"
        print(f"note: {setting}: left out {count:,} {files} in {shown(root)}: {kinds}{others}", flush=True)
