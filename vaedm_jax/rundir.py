"""A run directory explains itself: `config.json` in it says what it holds, and refuses what does not belong there.

A file of weights does too: the configuration is inside.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from ml_collections import ConfigDict

from vaedm_jax.checks import check_values
from vaedm_jax.config import FREE, MEASURED, TUNABLE, base_config, flatten, located
from vaedm_jax.errors import UserError, brief
from vaedm_jax.reporting.files import write_whole
from vaedm_jax.storage import Damaged, Tensors, check_form, parse_json, read_json, read_tensors, reading
from vaedm_jax.storage.layout import FILE, is_run
from vaedm_jax.storage.paths import path_of, regular_file, shown

T = TypeVar("T")
IMAGES = "images.json"  # what tells the images that a run is trained on from others
# What a setting means in a run, or a file of weights, that is older than the setting. All others mean their defaults.
BEFORE: dict[str, Any] = {"seed_per_stage": False, "ddpm.scale_betas": False, "ddpm.allow_signal_at_T": True}
BEFORE |= {"data.every_format": False}
# Settings of a stage whose schedule follows the length of the whole run, with the values for which it does.
FOLLOWS_LENGTH = {"ema_schedule": ("byol",), "decay": ("cosine", "linear")}
SIDE = {"images": int, "image_size": int, "content": str}
IDENTITY = {"train": SIDE, "held_out": SIDE, "files?": str, "folder?": str}  # of images, as `Dataset.identity` has it
SHIPPED = Path(__file__).parent / "weights"


def label_of(name: str | Path) -> str:
    """What a model or a prior is called: as its directory, or as its file."""
    place = os.path.realpath(path_of(name, "model"))
    return shown(Path(place).name).removesuffix(".safetensors").removesuffix(".npz")


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of the run in a directory; settings that are newer than the run have their defaults."""
    path = workdir / FILE
    if not path.is_file():
        what = f"holds no run ({FILE} is missing)" if workdir.is_dir() else "does not exist"
        raise UserError(f"{shown(workdir)} {what}; name a run's directory, or begin one by --mode=train --config=FILE")
    try:
        return decode_config(path, read_json(path))
    except Damaged as error:
        raise UserError(
            f"{path} is not the configuration of a run ({error.why}); restore it, or name another directory"
        ) from error


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Make it the configuration of the run in a directory."""
    stored = located(config)
    stored.data.changed = False  # it is asked for anew whenever they change
    write_whole(workdir / FILE, encode_config(stored).encode())


def encode_config(config: ConfigDict) -> str:
    return config.to_json(indent=1)


def decode_config(path: Path, stored: Any) -> ConfigDict:
    """The configuration in a file, of the value that `encode_config` wrote there; `Damaged` where it is none."""
    with reading(path, "configuration"):
        check_form(stored, {"ddpm": {"variant": str}}, "")
        config = base_config(stored["ddpm"]["variant"])
        if unknown := sorted(flatten(stored).keys() - flatten(config).keys()):
            raise UserError(f"this version knows no setting {shown(unknown[0][:60])}; a newer one has written it")
        config.update_from_flattened_dict(BEFORE | flatten(stored))
        check_values(config)
    return config


def keep_old_meaning(config: ConfigDict, workdir: Path) -> None:
    """Set the settings of BEFORE that the run in `workdir` is older than to what they mean there, if there is a run.

    So the file that began the run can be named again to continue it.
    """
    if (workdir / FILE).is_file():
        old = read_config(workdir)
        stored = flatten(read_json(workdir / FILE, dict))
        config.update_from_flattened_dict({name: flatten(old)[name] for name in BEFORE if name not in stored})
    keep_measured(config, workdir)


def keep_measured(config: ConfigDict, workdir: Path) -> None:
    """Set what `config` leaves to be measured (0) to what the run in `workdir` has measured, if there is a run."""
    if (workdir / FILE).is_file():
        old, new = flatten(read_config(workdir)), flatten(config)
        config.update_from_flattened_dict({name: old[name] for name in MEASURED if not new[name]})


def differences(old: ConfigDict, new: ConfigDict, allowed: tuple[str, ...]) -> dict[str, tuple]:
    """Settings that differ and match none of the patterns, as {name: (old, new)}."""
    a, b = flatten(old), flatten(new)
    return {
        key: (a[key], b[key])
        for key in a
        if plain(a[key]) != plain(b[key]) and not any(fnmatch(key, p) for p in allowed)
    }


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def refuse_another(workdir: Path, config: ConfigDict, moved: bool = True) -> ConfigDict:
    """The configuration of the run in a directory; UserError where `config` is that of another, or there is none.

    `moved`: the folder of its images may be another one.
    """
    old = read_config(workdir)
    elsewhere = ("data.path",) if moved and old.data.path and config.data.path else ()
    found = differences(old, config, FREE + TUNABLE + elsewhere)
    # With no average in the checkpoints none can be gone on with, nor can one be left out.
    found |= {key: v for key, v in differences(old, config, FREE).items() if "ema_decay" in key and not all(v)}
    if found:
        changes = [(key, brief(repr(a)), brief(repr(b))) for key, (a, b) in found.items()]
        listed = "; ".join(f"{key} was {a}, is now {b}" for key, a, b in changes[:4])
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise UserError(
            f"{shown(workdir)} holds another run: {listed}{more}. Name another --workdir, or undo the change"
        )
    return old


def claim(workdir: Path, config: ConfigDict, images: Any = None, last: Callable[[], T] = lambda: None) -> T:
    """Make the directory this configuration's, or refuse it where it holds another run (UserError).

    Args:
      images: tells those that are trained on from others: their folder may be another where they are the same.
      last: what else may refuse, after the directory has been compared and before it is changed; what it returns comes
        back.
    """
    old = None
    if (workdir / FILE).exists():
        known, seen = trained_on(workdir), images or {}
        same_folder = located(read_config(workdir)).data.path == located(config).data.path
        old = refuse_another(workdir, config, moved=bool(known) or same_folder)
        refuse_other_images(shown(workdir), known, seen, config.data.changed)
    found = last()
    if old:
        for key, (a, b) in differences(old, config, FREE).items():
            print(f"note: {key} was {brief(a)}, from here on it is {brief(b)}")
        for text in rescheduled(workdir, old, config):
            print(f"note: {text}")
    write_config(workdir, config)
    if images is not None:
        write_whole(workdir / IMAGES, json.dumps(images).encode())
    return found


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


def refuse_inside(workdir: Path, config: ConfigDict) -> None:
    """UserError where a directory that is no run yet lies among images that are read: its pictures would be too."""
    place = Path(os.path.realpath(workdir))
    for setting, written in (("data.path", config.data.path), ("restore.files", config.restore.files)):
        if not written:
            continue
        root = Path(os.path.realpath(path_of(written, setting)))
        if root in (place, *place.parents) and not is_run(place):
            raise UserError(
                f"--workdir={shown(workdir)} lies in {setting} = {shown(root)}, so that its pictures would be read as "
                "images; name a directory elsewhere"
            )


def rescheduled(workdir: Path, old: ConfigDict, new: ConfigDict) -> Iterator[str]:
    """Yield what changes in the stages that have begun where a schedule follows their length, and that is another."""
    for name in ("vae", "ddpm"):
        before, after = (config[name].steps or f"{config[name].epochs:g} epochs" for config in (old, new))
        begun = before != after and any((workdir / name / "checkpoints").glob("[0-9]*"))
        for setting in (s for s, values in FOLLOWS_LENGTH.items() if begun and new[name][s] in values):
            yield (
                f"{name}.{setting} = {new[name][setting]!r} follows the length of the whole run, which was {before} "
                f"and is now {after}; from here on it is that of the new length"
            )


@contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """While one training writes to a directory, another is refused (UserError), as is a directory that cannot be used.

    The lock is the kernel's, and ends with the process, however that ends. A file system without locks refuses nobody.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise UserError(f"--workdir={shown(workdir)} cannot be written to: {error.strerror}") from error
    place = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another training writes to {shown(workdir)}; wait for it, or name another --workdir"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(place)


def shipped(name: str) -> Path:
    """The file of weights of that name in the package."""
    path = SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise UserError(f"weights '{name}': no such file; weights in the package: {names}")
    return path


def model_at(name: str | Path) -> Path:
    """Return the run directory, or the file of weights, of a name: a path, or a name in the package (UserError)."""
    path = path_of(name, "weights")
    if path.is_dir():
        return path
    if not set("/.~") & set(str(name)):
        return shipped(str(name))
    return regular_file(path, "weights", "is not there: no such file, nor a run directory")


def weights(file: str | Path) -> tuple[ConfigDict, Tensors]:
    """The configuration in a file that `VAEDM.save` wrote, and the file, opened; UserError where it is none."""
    path = regular_file(file, "weights", "is not there: no such file, nor a run directory")
    try:
        opened = read_tensors(path)
        with reading(path, "configuration"):
            stored = parse_json(opened.metadata.get("config", ""))
        return decode_config(path, stored), opened
    except Damaged as error:
        raise UserError(f"{path} is no file of weights that VAEDM.save wrote ({error.why})") from error


def config_of(name: str | Path) -> ConfigDict:
    """The configuration of what `VAEDM.open` opens, without its parameters."""
    path = model_at(name)
    return read_config(path) if path.is_dir() else weights(path)[0]
