"""Draw faces by number, with DiceBear's styles and resvg: the extra `avatars` of setup.py.

Face i of a seed is a function of the seed, i, the size, the table below and the versions of the packages. It depends on
nothing else, such as how many are drawn, or by how many processes.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from importlib.resources import files
from itertools import count
from typing import Any

import numpy as np
from PIL import Image

from vaedm_jax.errors import UserError

# Others may draw other pixels, so the extra has exactly these.
VERSIONS = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}
INSTALL = "launch/env.sh avatars (or: pip install '.[avatars]')"
COLOUR = re.compile("#[0-9a-f]{6}")
LABELS = ("style", "hair", "skin", "glasses", "mouth")


@dataclass(frozen=True)
class Look:
    """A style, and how it is drawn so that all are framed alike, as heads with shoulders.

    Attributes:
      name: of the style file.
      options: of DiceBear, such as how far to come nearer.
      without: variants of any part that are left out: what is no face, or does not fit into the frame.
      hair, mouth: the parts that are labelled so. skin: the colour that is labelled so.
    """

    name: str
    options: Mapping[str, float] = field(default_factory=dict, hash=False)
    without: tuple[str, ...] = ()
    hair: str = "hair"
    mouth: str = "mouth"
    skin: str = "skin"


LOOKS = (
    Look("micah", skin="base"),
    Look("miniavs"),
    Look("open-peeps", {"maskProbability": 0}, ("bear", "cyclops", "longAfro", "monster"), "head", "expression"),
    Look("personas", {"scale": 1.15, "translateY": 3}, ("pacifier",)),
    Look("toon-head", {"scale": 1.15, "translateY": 4}),
)
SHADES = (-12, -6, 0, 6, 12)  # few, so that faces share many pixels, and all together take little space
RECIPE = hashlib.sha256(json.dumps([VERSIONS, [asdict(look) for look in LOOKS], SHADES]).encode()).hexdigest()[:16]


def face(seed: int, index: int, size: int) -> tuple[np.ndarray, dict[str, str]]:
    """Draw face `index` of a seed: uint8 [size, size, 3] on white, and what it is of LABELS."""
    import resvg_py

    look = LOOKS[int.from_bytes(digest(f"{seed} {index}")[:8], "big") % len(LOOKS)]
    palettes = opened(look)[1]
    for attempt in count():
        key = f"{seed} {index} {attempt}"
        svg, chosen = described(look, key, size)
        if not set(look.without) & {chosen[name] for name in chosen if name.endswith("Variant")}:
            break
    varied = {colour for name in palettes for colour in chosen.get(f"{name}Color", ())}
    svg = COLOUR.sub(lambda found: shade(key, found[0]) if found[0] in varied else found[0], svg)
    png = resvg_py.svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGB")), labels_of(look, chosen, palettes[look.skin])


def described(look: Look, key: str, size: int) -> tuple[str, dict[str, Any]]:
    """Return a face as SVG, and what DiceBear has chosen for it: variants of the parts, and colours."""
    from dicebear import Avatar

    avatar = Avatar(opened(look)[0], {**look.options, "seed": key, "size": size}).to_json()
    return avatar["svg"], avatar["options"]


def labels_of(look: Look, chosen: dict[str, Any], skins: list[str]) -> dict[str, str]:
    """Return what a face is, of what DiceBear has chosen. A tone of skin is the place in the style's palette."""
    glasses = any(
        name == "glassesVariant" or (name.endswith("Variant") and "glasses" in value.lower())
        for name, value in chosen.items()
    )
    return {
        "style": look.name,
        "hair": f"{look.name} {chosen.get(f'{look.hair}Variant', 'none')}",
        "skin": f"{look.name} {skins.index(chosen[f'{look.skin}Color'][0])}",
        "glasses": "yes" if glasses else "no",
        "mouth": f"{look.name} {chosen.get(f'{look.mouth}Variant', 'none')}",
    }


@cache
def opened(look: Look) -> tuple[Any, dict[str, list[str]]]:
    """Return a style, and its colours by name where there are several to choose from."""
    from dicebear import Style

    definition = style_file(look.name)
    colours = {name: colour["values"] for name, colour in definition["colors"].items() if len(colour["values"]) > 1}
    return Style(definition), colours


def style_file(name: str) -> dict[str, Any]:
    """The definition of a style, with its licence under `meta`."""
    return json.loads((files("dicebear_styles") / f"{name}.json").read_text("utf-8"))


def attribution() -> list[str]:
    """What each style's licence asks to be said."""
    return [style_file(look.name)["meta"]["license"]["text"] for look in LOOKS]


def shade(key: str, colour: str) -> str:
    """Return one of the SHADES of a colour such as '#f9c9b6', so that hardly two faces are the same.

    In one face equal colours stay equal, since styles rule out that hair has the colour of the skin.
    """
    lighter = SHADES[digest(f"{key} {colour}")[0] % len(SHADES)]
    channels = (int(colour[i : i + 2], 16) + lighter for i in (1, 3, 5))
    return "#" + "".join(f"{min(max(c, 0), 255):02x}" for c in channels)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def require(why: str = "") -> None:
    """UserError unless the packages that draw are there, in the versions that give the same pixels everywhere.

    `why` they are needed stands first in the message.
    """
    for name, version in VERSIONS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not"
        if found != version:
            have = "it is not installed" if found == "not" else f"{found} is installed"
            raise UserError(f"{why}faces are drawn by {name} {version}, and {have}: {INSTALL}")
