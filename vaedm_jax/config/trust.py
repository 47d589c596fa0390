"""Checks that a configuration from a run directory or from weights neither runs code nor uses the network.

Run directories and weights can come from anybody. Most of their settings only read local files or change what is
computed. The settings below do more, so only the command line and a --config file may set them.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from vaedm_jax.errors import UserError, brief

# A URL, or one of the paths that TensorFlow Datasets treats as a URL.
PLACE = re.compile(r"\s*([a-z][a-z0-9+.-]*:/|/(gs|s3|az|azure|hf|cns|bigstore)/)", re.IGNORECASE)
# NAME, NAME/CONFIG, NAME:VERSION: the data sets of tfds itself. Other names with a colon refer to other catalogues.
OF_TFDS = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?", re.ASCII)
HERE = ("127.0.0.1", "localhost", "::1")


def find_risk(name: str, value: Any) -> str:
    """Return the risk of a value that comes from a file, as the end of a sentence; "" if there is none."""
    if not isinstance(value, str) or not value:
        return ""
    if name == "eval.features" and ":" in value:
        return "would run code of that module"
    if name == "prepare.beam":
        return "would send work to other machines"
    if name == "explore.host" and value not in HERE:
        return "would open a page to other machines"
    if name == "log.wandb":
        return "would send metrics to a server"
    if any(PLACE.match(part) or part.strip().startswith("hub:") for part in value.split(",")) or (
        name == "data.source" and not OF_TFDS.fullmatch(value)
    ):
        return "would use the network"
    return ""


def check_borrowed(settings: Mapping[str, Any], origin: str, named: Collection[str] = ()) -> None:
    """Raise UserError if settings from a file would run code or use the network.

    Args:
      settings: {full name: value}.
      origin: the file, or the run directory, for the message.
      named: the names of the settings that the user has set on the command line, which are trusted.
    """
    for name, value in settings.items():
        if name not in named and (risk := find_risk(name, value)):
            trusted = f"if you trust it, set it yourself: --config.{name}={brief(value)}; otherwise set another value"
            raise UserError(f"{brief(origin)} has {name} = {brief(repr(value))}, which {risk}; {trusted}")
