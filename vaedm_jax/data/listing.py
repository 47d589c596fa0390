"""The images under a folder: which files they are, and what is left out, which is said."""

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

COMMON = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # all that was once read
# Formats that Pillow names and that are no still pictures with 8 or 16 bits: drawings, which other programs draw;
# films; tables of measurements; wrappers.
UNFIT = {"EPS", "WMF", "PDF", "MPEG", "FLI", "GRIB", "BUFR", "HDF5", "FITS", "IPTC"}
UNFIT_ENDINGS = {".pfm", ".vst"}  # floats of no known range; what mostly is a drawing of Visio


class Found(NamedTuple):
    """What is under a folder.

    Attributes:
      names: sorted paths, relative to it and with slashes, of the images that are not hidden.
      left: how many other files there are, by their ending.
      runs: run directories, which are left out.
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
    """Return the endings of the formats that are read, such as `.jpg`."""
    known = {*formats(), "MPO"}  # Pillow reads MPO, which some cameras write, as JPEG
    return frozenset(e for e, name in Image.registered_extensions().items() if name in known) - UNFIT_ENDINGS


def images_under(root: Path, setting: str, every_format: bool = True) -> Found:
    """Return the images under a folder, at any depth; a note says what is left out, and UserError what fails.

    No file is taken twice by links: its own name comes first, then the first of the links to it.

    Args:
      setting: what the folder was given as.
      every_format: False takes the endings of COMMON alone, and does not follow links to folders, as was done once.
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
        tell(found, root, setting)
    return found


def folders(root: Path, setting: str, runs: list[str], follow: bool) -> Iterator[tuple[Path, list[os.DirEntry]]]:
    """Yield each folder, relative to `root`, with its files; those behind links come last, and each comes once.

    Of a run directory nothing is taken, and its name is added to `runs`; where `root` is one, what the run wrote.
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
        for entry in listed(root / inside, setting):
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


def listed(folder: Path, setting: str) -> list[os.DirEntry]:
    """Return what is in a folder, sorted; UserError where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{setting}: {shown(folder)} cannot be listed ({error.strerror})") from error


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def tell(found: Found, root: Path, setting: str) -> None:
    """Print what was left out."""
    for name in found.runs:
        print(f"note: {setting}: {shown(root / name)} is a run directory, whose pictures are left out", flush=True)
    if count := found.left.total():
        kinds = ", ".join(f"{n:,} {shown(e) if e else 'without an ending'}" for e, n in found.left.most_common(8))
        others = f", {len(found.left) - 8} more endings" if len(found.left) > 8 else ""
        files = "file that is no image" if count == 1 else "files that are no images"
        print(f"note: {setting}: {count:,} {files} left out in {shown(root)}: {kinds}{others}", flush=True)
