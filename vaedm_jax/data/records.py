"""The files that mode `prepare` writes: records in the format of tfds, and two lists of the images in them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vaedm_jax.errors import UserError
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.paths import resolve_path

INFO = "dataset_info.json"  # the metadata of tfds, which is written last
PLAN, BROKEN = "folder.json", "broken.json"  # the two lists
FORM = {"folder": str, "image_size": int, "shards": int, "names": [str]}
MOST = 2**28  # the largest size of a list in bytes, enough for millions of names


@dataclass(frozen=True)
class Plan:
    """A plan for the records of a folder of images.

    Attributes:
      folder: the folder of the images.
      image_size: the size of the records in pixels.
      shards: the number of files of records.
      names: the names of all images in the folder. The records have the same order, without the broken images.
    """

    folder: str
    image_size: int
    shards: int
    names: list[str]

    @property
    def name(self) -> str:
        """The last part of the path of the folder."""
        return Path(self.folder).name or self.folder

    def encoded(self) -> bytes:
        """Return the plan as JSON."""
        return json.dumps(asdict(self), indent=0).encode()


def are_in(path: str | Path) -> bool:
    """Return whether a folder has records, complete or not, instead of images."""
    root = resolve_path(path, "data.path")
    return (root / INFO).is_file() or (root / PLAN).is_file()


def read_plan(root: Path, size: int | None = None) -> Plan | None:
    """Return the plan in a folder, or None if there is none.

    Args:
      size: if given, the records must be complete and have this size.

    Raises:
      UserError: the plan is damaged or missing, or the records are incomplete or have another size.
    """
    if not (root / PLAN).is_file():
        if (root / BROKEN).is_file():
            raise UserError(f"{root / PLAN} is missing (the list of the images); prepare the data again")
        return None
    try:
        found = read_json(root / PLAN, FORM, MOST)
        plan = Plan(**{name: found[name] for name in FORM})
    except Damaged as error:
        raise UserError(f"{root / PLAN} is damaged; prepare the data again, into another folder") from error
    if size is not None and not (root / INFO).is_file():
        raise UserError(
            f"data.path: {root} is not finished; run the same command with --mode=prepare again to continue"
        )
    if size is not None and plan.image_size != size:
        raise UserError(
            f"data.path: {root} was prepared at {plan.image_size} x {plan.image_size}, but data.image_size = {size}; "
            f"use --config.data.image_size={plan.image_size}, or prepare the images again, into another folder"
        )
    return plan


def read_broken(file: Path) -> dict[str, str]:
    """Return the names of the images that could not be read, with the reasons."""
    try:
        return read_json(file, {str: str}, MOST)
    except Damaged as error:
        raise UserError(f"{file} is missing or damaged ({error.why}); prepare the data again") from error


def recorded_names(root: Path, plan: Plan) -> list[str]:
    """Return the names of the images that have records, in the order of the records."""
    broken = read_broken(root / BROKEN)
    return [name for name in plan.names if name not in broken]
