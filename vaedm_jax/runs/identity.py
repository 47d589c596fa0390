"""What tells the images of a run or of a file of weights from others."""

from pathlib import Path
from typing import Any

from vaedm_jax.errors import UserError
from vaedm_jax.storage.damage import Damaged, reading
from vaedm_jax.storage.json_file import parse_json, read_json
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.tensors import Tensors

IMAGES = "images.json"  # what tells the images that a run is trained on from others
SIDE = {"images": int, "image_size": int, "content": str}
IDENTITY = {"train": SIDE, "held_out": SIDE, "files?": str, "folder?": str}  # of images, as `Dataset.identity` has it


def trained_on(workdir: Path) -> dict[str, Any] | None:
    """Return what tells the images of a run from others (`Dataset.identity`); None for runs that did not keep it."""
    path = workdir / IMAGES
    try:
        return read_json(path, (IDENTITY, None)) if path.exists() else None
    except Damaged as error:
        raise UserError(f"{error}; it tells the run's images from others, and may be removed") from error


def identity_in(weights: Tensors) -> dict[str, Any] | None:
    """Return what tells the images of a file of weights from others, which files of before do not have."""
    with reading(weights.path, "file of weights"):
        return parse_json(weights.metadata["images"], IDENTITY) if "images" in weights.metadata else None


def same_images(known: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Return whether two identities are of the same images; those of before have no digest of the files."""
    names = ("files",) if known.get("files") and seen.get("files") else ("train", "held_out")
    return all(known.get(name) == seen.get(name) for name in names)


class OtherImages(UserError):
    """The images that a model was trained on are not those that are there now."""


def refuse_other_images(who: str, known: dict[str, Any] | None, seen: dict[str, Any], changed: bool) -> None:
    """UserError where the images that are seen are not those that are known; with `changed` a note says so."""
    if not known or not seen or same_images(known, seen):
        return
    then, now = (sum(of[side]["images"] for side in ("train", "held_out")) for of in (known, seen))
    place, before = shown(seen.get("folder") or "the data set"), shown(known.get("folder") or "")
    others = f"the {then:,} images" + (f" of {before}" if before not in ("", place) else "")
    there = f"{place} has {now:,}" if then != now or before != place else f"some of {place} are others now"
    if changed:
        print(f"note: {who} was trained on {others}, and {there}; data.changed = True allows it", flush=True)
        return
    raise OtherImages(
        f"{who} was trained on {others}, and {there}: other images; name the folder of those that it was trained on "
        "(--config.data.path=DIR), or go on with these on purpose (--config.data.changed=True)"
    )
