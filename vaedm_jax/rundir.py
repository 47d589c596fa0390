"""A run directory explains itself: `config.json` in it says what it holds, and refuses what does not belong there."""

import json
from fnmatch import fnmatch
from pathlib import Path

from ml_collections import ConfigDict

from vaedm_jax.config import FREE, TUNABLE, base_config, flatten
from vaedm_jax.errors import UserError
from vaedm_jax.reporting.files import write_whole

FILE = "config.json"


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of the run in a directory; settings that are newer than the run have their defaults."""
    path = workdir / FILE
    if not path.is_file():
        raise UserError(f"{workdir} holds no run ({FILE} is missing); train one there, or name another --workdir")
    try:
        stored = json.loads(path.read_text())
        config = base_config(stored["ddpm"]["variant"])
        config.update_from_flattened_dict({k: v for k, v in flatten(stored).items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the configuration of a run ({error})") from error
    return config.lock()


def differences(old: ConfigDict, new: ConfigDict, allowed: tuple[str, ...]) -> dict[str, tuple]:
    """Settings that differ and match none of the patterns, as {name: (old, new)}."""
    a, b = flatten(old), flatten(new)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if plain(a.get(key)) != plain(b.get(key)) and not any(fnmatch(key, p) for p in allowed)
    }


def plain(value):
    return list(value) if isinstance(value, list | tuple) else value


def claim(workdir: Path, config: ConfigDict) -> None:
    """Make the directory this configuration's, or refuse it where it holds another run (UserError)."""
    if (workdir / FILE).exists():
        old = read_config(workdir)
        if found := differences(old, config, FREE + TUNABLE):
            listed = "; ".join(f"{key} was {a!r}, is now {b!r}" for key, (a, b) in list(found.items())[:4])
            raise UserError(f"{workdir} holds another run: {listed}. Name another --workdir, or undo the change")
        for key, (a, b) in differences(old, config, FREE).items():
            print(f"note: {key} was {a}, from here on it is {b}")
    elif workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; it must be a folder or not exist yet")
    write_whole(workdir / FILE, config.to_json(indent=1).encode())
