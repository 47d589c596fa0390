"""What a configuration may not ask for where it was read from a file: to run code, or to use the network.

A run directory or a file of weights can come from anybody. Its settings are taken as they are, but those below have
effects beyond reading local files and computing. Only the command line and a --config file may set these.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from vaedm_jax.errors import UserError, brief

# A URL; or how the libraries of TensorFlow Datasets write one as a path.
PLACE = re.compile(r"\s*([a-z][a-z0-9+.-]*:/|/(gs|s3|az|azure|hf|cns|bigstore)/)", re.IGNORECASE)
# NAME, NAME/CONFIG, NAME:VERSION: what tfds itself has. Before another colon it takes the name of a catalogue.
OF_TFDS = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?", re.ASCII)
HERE = ("127.0.0.1", "localhost", "::1")


def risk_of(name: str, value: Any) -> str:
    """Return what a value of a setting would do that a file may not ask for; "" where there is nothing of that kind."""
    if not isinstance(value, str) or not value:
        return ""
    if name == "eval.features" and ":" in value:
        return "would run code of that module"
    if name == "prepare.beam":
        return "would send work to other machines"
    if name == "explore.host" and value not in HERE:
        return "would open a page to other machines"
    if any(PLACE.match(part) for part in value.split(",")) or (name == "data.source" and not OF_TFDS.fullmatch(value)):
        return "would use the network"
    return ""


def check_borrowed(settings: Mapping[str, Any], origin: str, named: Collection[str] = ()) -> None:
    """UserError where settings that were read from a file ask for what a file may not.

    Args:
      settings: by their full names. origin: the file, or the directory of the run.
      named: those that were set on the command line.
    """
    for name, value in settings.items():
        if name not in named and (risk := risk_of(name, value)):
            trusted = f"if you trust it, name it yourself: --config.{name}={brief(value)}; else give it another value"
            raise UserError(f"{brief(origin)} has {name} = {brief(repr(value))}, which {risk}; {trusted}")
