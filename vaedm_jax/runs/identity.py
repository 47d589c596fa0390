"""The identity of the images that a run or a file of weights was trained on."""

from pathlib import Path
from typing import Any

from vaedm_jax.errors import UserError
from vaedm_jax.storage.damage import Damaged, reading
from vaedm_jax.storage.json_file import parse_json, read_json
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.tensors import Tensors

IMAGES = "images.json"  # the file of the identity in a run directory
SIDE = {"images": int, "image_size": int, "content": str}
IDENTITY = {"train": SIDE, "held_out": SIDE, "files?": str, "folder?": str}  # see `Dataset.identity`


def trained_on(workdir: Path) -> dict[str, Any] | None:
    """Return the identity of the images of a run; None for runs of older versions."""
    path = workdir / IMAGES
    try:
        return read_json(path, (IDENTITY, None)) if path.exists() else None
    except Damaged as error:
        raise UserError(f"{error}; it identifies the images of the run, and may be removed") from error


def identity_in(weights: Tensors) -> dict[str, Any] | None:
    """Return the identity of the images of a file of weights; None for files of older versions."""
    with reading(weights.path, "file of weights"):
        return parse_json(weights.metadata["images"], IDENTITY) if "images" in weights.metadata else None


def same_images(known: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Return whether two identities are those of the same images. Older identities have no digest of the files."""
    names = ("files",) if known.get("files") and seen.get("files") else ("train", "held_out")
    return all(known.get(name) == seen.get(name) for name in names)


class OtherImages(UserError):
    """The images are not those that a model was trained on."""


def refuse_other_images(who: str, known: dict[str, Any] | None, seen: dict[str, Any], changed: bool) -> None:
    """Raise OtherImages unless the images are those that a model was trained on.

    Args:
      who: the model.
      known, seen: the identity of its images, and that of the images now.
      changed: print a note instead.
    """
    if not known or not seen or same_images(known, seen):
        return
    then, now = (sum(of[side]["images"] for side in ("train", "held_out")) for of in (known, seen))
    place, before = shown(seen.get("folder") or "the data set"), shown(known.get("folder") or "")
    others = f"the {then:,} images" + (f" of {before}" if before not in ("", place) else "")
    there = f"{place} has {now:,}" if then != now or before != place else f"some of {place} have changed"
    if changed:
        print(f"note: {who} was trained on {others}, and {there}; data.changed = True allows it", flush=True)
        return
    raise OtherImages(
        f"{who} was trained on {others}, and {there}: these are other images; name the folder of the training images "
        "(--config.data.path=DIR), or continue with these on purpose (--config.data.changed=True)"
    )
