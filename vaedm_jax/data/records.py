"""What mode `prepare` makes of a folder of images: records as tfds has them, and two lists that say of what."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vaedm_jax.errors import UserError
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.paths import path_of

INFO = "dataset_info.json"  # of tfds; it is written last
PLAN, BROKEN = "folder.json", "broken.json"
FORM = {"folder": str, "image_size": int, "shards": int, "names": [str]}
MOST = 2**28  # bytes of either, some millions of names


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
      folder: where the images are.
      names: of all images in it, in the order of the records, which leave out those in the list of broken ones.
      shards: the number of files that the records are spread over.
    """

    folder: str
    image_size: int
    shards: int
    names: list[str]

    @property
    def name(self) -> str:
        return Path(self.folder).name or self.folder

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), indent=0).encode()


def are_in(path: str | Path) -> bool:
    """Whether a folder holds records, finished or not, and no images."""
    root = path_of(path, "data.path")
    return (root / INFO).is_file() or (root / PLAN).is_file()


def read_plan(root: Path, size: int | None = None) -> Plan | None:
    """The plan in a folder, None where there is none; UserError unless its records are whole and of that size."""
    if not (root / PLAN).is_file():
        if (root / BROKEN).is_file():
            raise UserError(f"{root / PLAN} is missing, which has the names of the images; prepare the data anew")
        return None
    try:
        found = read_json(root / PLAN, FORM, MOST)
        plan = Plan(**{name: found[name] for name in FORM})
    except Damaged as error:
        raise UserError(f"{root / PLAN} is damaged; prepare the data anew, into another folder") from error
    if size is not None and not (root / INFO).is_file():
        raise UserError(f"data.path: {root} is not finished; the same command with --mode=prepare continues")
    if size is not None and plan.image_size != size:
        raise UserError(
            f"data.path: {root} was prepared at {plan.image_size} x {plan.image_size}, and data.image_size is {size}; "
            f"give --config.data.image_size={plan.image_size}, or prepare the images anew, into another folder"
        )
    return plan


def read_broken(file: Path) -> dict[str, str]:
    """The names of images that could not be read, and why."""
    try:
        return read_json(file, {str: str}, MOST)
    except Damaged as error:
        raise UserError(f"{file} is missing or damaged ({error.why}); prepare the data anew") from error


def written(root: Path, plan: Plan) -> list[str]:
    """The names of the images that there are records of, in their order."""
    broken = read_broken(root / BROKEN)
    return [name for name in plan.names if name not in broken]
