"""What the explorer shows, as a value, and its two written forms: the query of an address, and a JSON file."""

import base64
import os
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import numpy as np

from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.errors import UserError, check_choice, check_range, prefix_errors
from vaedm_jax.sampling.inputs import check_indices
from vaedm_jax.storage import Damaged
from vaedm_jax.storage.json_file import read_json

LIMIT = 4.0  # standard deviations: the ends of a slider
KIND = "vaedm explorer"  # marks the files
MOST_QUERY, MOST_FILE = 2**16, 2**24  # characters of a query, bytes of a file
SETTINGS = {"seed": int, "steps": int, "sampler": str, "start": str}
FORM = {"kind": str, "model": str, "z": [float], "settings": SETTINGS, "chain?": dict, "image": str}


@dataclass(frozen=True)
class State:
    """All that a picture of the explorer depends on, except the model.

    Attributes:
      position: the position of z along each direction, in standard deviations from the mean.
      seed: the seed of x_T, and of the noise in each step.
      steps, sampler, start: settings of the chain; see `Chain`.
    """

    position: tuple[float, ...]
    seed: int
    steps: int
    sampler: str
    start: str


class Allowed(NamedTuple):
    """The states that a model allows.

    Attributes:
      directions: the number of directions.
      steps: the largest number of steps.
      samplers, starts: the names that are allowed.
    """

    directions: int
    steps: int
    samplers: tuple[str, ...]
    starts: tuple[str, ...]

    def check(self, state: State) -> State:
        """Return a state, with 0 for positions that are missing at the end; raise UserError if it is not allowed."""
        check_range("position", state.position, -LIMIT, LIMIT)
        if len(state.position) > self.directions:
            raise UserError(f"{len(state.position)} positions: this model has {self.directions} directions")
        check_indices(1, state.seed)
        check_range("steps", state.steps, 1, self.steps)
        check_choice("sampler", state.sampler, self.samplers)
        check_choice("start", state.start, self.starts)
        return replace(state, position=(*state.position, *(0.0,) * (self.directions - len(state.position))))


def rounded(positions: np.ndarray) -> tuple[float, ...]:
    """Return positions as a state has them: to two decimals, and within the ends of the sliders."""
    return tuple(round(float(p), 2) + 0.0 for p in np.clip(positions, -LIMIT, LIMIT))


def to_query(state: State, model: str) -> str:
    """Return a state as the query of an address, without the question mark.

    Args:
      model: identifies the model.
    """
    position = ",".join(f"{p:g}" for p in state.position)
    return urlencode(asdict(state) | {"position": position, "model": model}, safe=",")


def from_query(query: str, allowed: Allowed, default: State) -> tuple[State, str]:
    """Return the state of a query and the model that it names.

    Args:
      query: of unknown origin.
      default: what the query does not name is taken from it. Names of others are ignored.

    Raises:
      UserError: a value is invalid, or the model does not allow it.
    """
    with prefix_errors("the address: "):
        if len(query) > MOST_QUERY:
            raise UserError(f"it has {len(query):,} characters, at most {MOST_QUERY:,} are allowed")
        try:
            given = {name: values[-1] for name, values in parse_qs(query, max_num_fields=100).items()}
        except ValueError as error:
            raise UserError("it has too many fields") from error
        found: dict[str, Any] = {name: given[name] for name in ("sampler", "start") if name in given}
        found |= {name: parse_number(name, given[name], int) for name in ("seed", "steps") if name in given}
        if "position" in given:
            found["position"] = tuple(parse_number("position", p, float) for p in given["position"].split(","))
        return allowed.check(replace(default, **found)), given.get("model", "")


def parse_number(name: str, text: str, kind: type) -> Any:
    """Return the number in a text; raise UserError if there is none."""
    try:
        return kind(text[:40])
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} = {text[:40]!r}: it must be {what}") from error


def to_file(state: State, model: str, z: np.ndarray, chain: Chain, png: bytes) -> dict[str, Any]:
    """Return a state as the value of a JSON file.

    Args:
      model: identifies the model.
      z: [D], which the model decodes.
      chain: the chain of the state, with the settings that the page does not show.
      png: the refined image.
    """
    settings = {name: value for name, value in asdict(state).items() if name in SETTINGS}
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    numbers = [round(float(v), 6) for v in z]
    return {"kind": KIND, "model": model, "z": numbers, "settings": settings, "chain": asdict(chain), "image": image}


class Loaded(NamedTuple):
    """What a file holds. The settings are not checked yet.

    Attributes:
      model: identifies the model that made the file.
      z: [D].
      settings: the seed, steps, sampler and start.
      chain: all settings of the chain; None in older files.
    """

    model: str
    z: np.ndarray
    settings: dict[str, Any]
    chain: dict[str, Any] | None


def from_file(path: str | os.PathLike, z_dim: int) -> Loaded:
    """Return what a JSON file of unknown origin holds. Its image is not decoded.

    Raises:
      UserError: it is not a file of the explorer, or z has not `z_dim` numbers.
    """
    try:
        found = read_json(path, FORM, MOST_FILE)
    except Damaged as error:
        raise UserError(f"the file: {error.why}; choose one that this page saved") from error
    if found["kind"] != KIND:
        raise UserError("the file is not one that this page saved: its kind is another")
    if len(found["z"]) != z_dim:
        raise UserError(
            f"the file has a z of {len(found['z'])} numbers, but this model has {z_dim}: it was saved with another "
            "model; choose one that was saved with this model"
        )
    settings = {name: found["settings"][name] for name in SETTINGS}
    return Loaded(found["model"], np.array(found["z"], np.float64), settings, found.get("chain"))
