"""What a run directory looks like from outside, so that its pictures are not taken for somebody's images."""

import os
from pathlib import Path

from vaedm_jax.storage.damage import Damaged
from vaedm_jax.storage.json_file import read_json

FILE = "config.json"
# What the modes write beside it: folders, of which some hold pictures, and files.
FOLDERS = ("vae", "ddpm", "samples", "export", "evaluation", "figures", "restored")
FILES = ("images.json", "report.html", "prior.npz")


def is_run(folder: str | os.PathLike) -> bool:
    """Return whether a folder is a run directory: it holds a configuration of this package, and what a run writes."""
    folder = Path(folder)
    if not (folder / FILE).is_file() or not any((folder / name).exists() for name in (*FOLDERS, *FILES)):
        return False
    try:
        read_json(folder / FILE, {"data": dict, "vae": dict, "ddpm": {"variant": str}})
    except Damaged:
        return False
    return True
