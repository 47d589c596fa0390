"""The files of a run directory, so that a folder of images is not confused with one."""

import os
from pathlib import Path

from vaedm_jax.storage.damage import Damaged
from vaedm_jax.storage.json_file import read_json

FILE = "config.json"
# The folders and files that the modes write beside it. Some of the folders hold pictures.
FOLDERS = ("vae", "ddpm", "samples", "export", "evaluation", "figures", "restored")
FILES = ("images.json", "report.html", "prior.npz")


def is_run(folder: str | os.PathLike) -> bool:
    """Return whether a folder has a configuration of this package and at least one other file or folder of a run."""
    folder = Path(folder)
    if not (folder / FILE).is_file() or not any((folder / name).exists() for name in (*FOLDERS, *FILES)):
        return False
    try:
        read_json(folder / FILE, {"data": dict, "vae": dict, "ddpm": {"variant": str}})
    except Damaged:
        return False
    return True
