"""Run directories: their configuration, and the checks that keep different runs apart."""

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

from vaedm_jax.config import FREE, MEASURED, TUNABLE, base_config, flatten, with_absolute_paths
from vaedm_jax.config.checks import check_values
from vaedm_jax.errors import UserError, brief
from vaedm_jax.runs.identity import IMAGES, refuse_other_images, trained_on
from vaedm_jax.storage import Damaged, check_form, read_json, reading
from vaedm_jax.storage.layout import FILE, is_run
from vaedm_jax.storage.paths import resolve_path, shown
from vaedm_jax.storage.writing import write_whole

T = TypeVar("T")
# The values of settings in runs and files of weights older than the setting. All others have their defaults.
BEFORE: dict[str, Any] = {"seed_per_stage": False, "ddpm.scale_betas": False, "ddpm.allow_signal_at_T": True}
BEFORE |= {"data.every_format": False}
# Settings of a stage with the values for which a schedule depends on the length of the whole run.
FOLLOWS_LENGTH = {"ema_schedule": ("byol",), "decay": ("cosine", "linear")}


def read_config(workdir: Path) -> ConfigDict:
    """Return the configuration of the run in a directory; settings newer than the run have their defaults."""
    path = workdir / FILE
    if not path.is_file():
        what = f"holds no run ({FILE} is missing)" if workdir.is_dir() else "does not exist"
        raise UserError(
            f"{shown(workdir)} {what}; name the directory of a run, or start one with --mode=train --config=FILE"
        )
    try:
        return decode_config(path, read_json(path))
    except Damaged as error:
        raise UserError(
            f"{path} is not the configuration of a run ({error.why}); restore it, or name another directory"
        ) from error


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Write the configuration of the run in a directory."""
    stored = with_absolute_paths(config)
    stored.data.changed = False  # it holds for one command
    write_whole(workdir / FILE, encode_config(stored).encode())


def encode_config(config: ConfigDict) -> str:
    """Return a configuration as JSON."""
    return config.to_json(indent=1)


def decode_config(path: Path, stored: Any) -> ConfigDict:
    """Return the configuration in a file; raise `Damaged` if it has none.

    Args:
      stored: the parsed JSON of `encode_config`.
    """
    with reading(path, "configuration"):
        check_form(stored, {"ddpm": {"variant": str}}, "")
        config = base_config(stored["ddpm"]["variant"])
        if unknown := sorted(flatten(stored).keys() - flatten(config).keys()):
            raise UserError(f"this version has no setting {shown(unknown[0][:60])}; a newer version wrote it")
        config.update_from_flattened_dict(BEFORE | flatten(stored))
        check_values(config)
    return config


def keep_old_meaning(config: ConfigDict, workdir: Path) -> None:
    """Give settings that are newer than the run in `workdir` the values that they have there, if there is a run.

    So the configuration file that started the run can be named again to continue it.
    """
    if (workdir / FILE).is_file():
        old = read_config(workdir)
        stored = flatten(read_json(workdir / FILE, dict))
        config.update_from_flattened_dict({name: flatten(old)[name] for name in BEFORE if name not in stored})
    keep_measured(config, workdir)


def keep_measured(config: ConfigDict, workdir: Path) -> None:
    """Copy the values that the run in `workdir` has measured to `config`, if there is a run and they are 0."""
    if (workdir / FILE).is_file():
        old, new = flatten(read_config(workdir)), flatten(config)
        config.update_from_flattened_dict({name: old[name] for name in MEASURED if not new[name]})


def differences(old: ConfigDict, new: ConfigDict, allowed: tuple[str, ...]) -> dict[str, tuple]:
    """Return the settings that differ and match none of the patterns, as {name: (old, new)}."""
    a, b = flatten(old), flatten(new)
    return {
        key: (a[key], b[key])
        for key in a
        if plain(a[key]) != plain(b[key]) and not any(fnmatch(key, p) for p in allowed)
    }


def plain(value: Any) -> Any:
    """Return a value as JSON holds it."""
    return list(value) if isinstance(value, tuple) else value


def refuse_another(workdir: Path, config: ConfigDict, moved: bool = True) -> ConfigDict:
    """Return the configuration of the run in a directory; raise UserError if `config` describes another model.

    Args:
      moved: allow another folder of images.
    """
    old = read_config(workdir)
    elsewhere = ("data.path",) if moved and old.data.path and config.data.path else ()
    found = differences(old, config, FREE + TUNABLE + elsewhere)
    # Checkpoints with an average cannot be continued without one, nor the other way round.
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
    """Write the configuration to a directory; raise UserError if it holds another run.

    Args:
      images: the identity of the images. Their folder may differ if they are the same.
      last: a last check, called after the comparison and before the directory is changed. Its result is returned.
    """
    old = None
    if (workdir / FILE).exists():
        known, seen = trained_on(workdir), images or {}
        same_folder = with_absolute_paths(read_config(workdir)).data.path == with_absolute_paths(config).data.path
        old = refuse_another(workdir, config, moved=bool(known) or same_folder)
        refuse_other_images(shown(workdir), known, seen, config.data.changed)
    found = last()
    if old:
        for key, (a, b) in differences(old, config, FREE).items():
            print(f"note: {key} was {brief(a)}; from now on it is {brief(b)}")
        for text in rescheduled(workdir, old, config):
            print(f"note: {text}")
    write_config(workdir, config)
    if images is not None:
        write_whole(workdir / IMAGES, json.dumps(images).encode())
    return found


def refuse_inside(workdir: Path, config: ConfigDict) -> None:
    """Raise UserError if a new run directory is in a folder of images: its pictures would be read as images."""
    place = Path(os.path.realpath(workdir))
    for setting, written in (("data.path", config.data.path), ("restore.files", config.restore.files)):
        if not written:
            continue
        root = Path(os.path.realpath(resolve_path(written, setting)))
        if root in (place, *place.parents) and not is_run(place):
            raise UserError(
                f"--workdir={shown(workdir)} is in {setting} = {shown(root)}, so its pictures would be read as images; "
                "name a directory elsewhere"
            )


def rescheduled(workdir: Path, old: ConfigDict, new: ConfigDict) -> Iterator[str]:
    """Yield a note for each schedule that changes with the length of a stage that has begun."""
    for name in ("vae", "ddpm"):
        before, after = (config[name].steps or f"{config[name].epochs:g} epochs" for config in (old, new))
        begun = before != after and any((workdir / name / "checkpoints").glob("[0-9]*"))
        for setting in (s for s, values in FOLLOWS_LENGTH.items() if begun and new[name][s] in values):
            yield (
                f"{name}.{setting} = {new[name][setting]!r} depends on the length of the whole run, which was {before} "
                f"and is now {after}; from now on the new length counts"
            )


@contextmanager
def lock(workdir: Path, what: str = "training") -> Iterator[None]:
    """Lock a directory for one command; raise UserError if another has it, or if it cannot be written to.

    The kernel holds the lock until the process ends, in whatever way. A file system without locks never refuses.

    Args:
      what: what the commands do, for the message.
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
                f"another {what} writes to {shown(workdir)}; wait until it ends, or name another --workdir"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(place)
