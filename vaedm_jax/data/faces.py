"""Draw faces with the styles of DiceBear and with resvg, which the extra `avatars` of setup.py installs.

Face i of a seed is a function of the seed, i, the size, the table LOOKS and the versions of the packages. It does not
depend on the number of faces or of processes.
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

# Other versions may draw other pixels, so the extra requires exactly these.
VERSIONS = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}
INSTALL = "launch/env.sh avatars (or: pip install '.[avatars]')"
COLOUR = re.compile("#[0-9a-f]{6}")
LABELS = ("style", "hair", "skin", "glasses", "mouth")


@dataclass(frozen=True)
class Look:
    """A style and how to draw it. All styles are framed alike, as heads with shoulders.

    Attributes:
      name: the name of the style file.
      options: options of DiceBear, such as the scale.
      without: variants of any part that are excluded, since they are not faces or do not fit into the frame.
      hair, mouth: the names of the parts that give the labels 'hair' and 'mouth'.
      skin: the name of the colour that gives the label 'skin'.
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
SHADES = (-12, -6, 0, 6, 12)  # few, so that many pixels are equal and compress well
RECIPE = hashlib.sha256(json.dumps([VERSIONS, [asdict(look) for look in LOOKS], SHADES]).encode()).hexdigest()[:16]


def face(seed: int, index: int, size: int) -> tuple[np.ndarray, dict[str, str]]:
    """Draw face `index` of a seed on white; return uint8 [size, size, 3] and its LABELS."""
    import resvg_py

    look = LOOKS[int.from_bytes(digest(f"{seed} {index}")[:8], "big") % len(LOOKS)]
    palettes = load_style(look)[1]
    for attempt in count():
        key = f"{seed} {index} {attempt}"
        svg, chosen = compose(look, key, size)
        if not set(look.without) & {chosen[name] for name in chosen if name.endswith("Variant")}:
            break
    varied = {colour for name in palettes for colour in chosen.get(f"{name}Color", ())}
    svg = COLOUR.sub(lambda found: shade(key, found[0]) if found[0] in varied else found[0], svg)
    png = resvg_py.svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGB")), label_face(look, chosen, palettes[look.skin])


def compose(look: Look, key: str, size: int) -> tuple[str, dict[str, Any]]:
    """Return a face as SVG, and the variants of the parts and the colours that DiceBear chose for it."""
    from dicebear import Avatar

    avatar = Avatar(load_style(look)[0], {**look.options, "seed": key, "size": size}).to_json()
    return avatar["svg"], avatar["options"]


def label_face(look: Look, chosen: dict[str, Any], skins: list[str]) -> dict[str, str]:
    """Return the LABELS of a face from the choices of DiceBear; a skin is labelled by its index in the palette."""
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
def load_style(look: Look) -> tuple[Any, dict[str, list[str]]]:
    """Return a style, and its palettes by name, without those of a single colour."""
    from dicebear import Style

    definition = style_file(look.name)
    colours = {name: colour["values"] for name, colour in definition["colors"].items() if len(colour["values"]) > 1}
    return Style(definition), colours


def style_file(name: str) -> dict[str, Any]:
    """Return the definition of a style, which has the licence under `meta`."""
    return json.loads((files("dicebear_styles") / f"{name}.json").read_text("utf-8"))


def attribution() -> list[str]:
    """Return the attribution that the licence of each style requires."""
    return [style_file(look.name)["meta"]["license"]["text"] for look in LOOKS]


def shade(key: str, colour: str) -> str:
    """Return one of the SHADES of a colour such as '#f9c9b6', so that few faces are identical.

    Within a face, equal colours stay equal: styles that keep hair and skin of different colours still do so.
    """
    lighter = SHADES[digest(f"{key} {colour}")[0] % len(SHADES)]
    channels = (int(colour[i : i + 2], 16) + lighter for i in (1, 3, 5))
    return "#" + "".join(f"{min(max(c, 0), 255):02x}" for c in channels)


def digest(text: str) -> bytes:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()


def require(why: str = "") -> None:
    """Raise UserError unless the packages that draw faces are installed, in exactly the versions of VERSIONS.

    Args:
      why: the reason that they are needed, the beginning of the message.
    """
    for name, version in VERSIONS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not"
        if found != version:
            have = "it is not installed" if found == "not" else f"{found} is installed"
            raise UserError(f"{why}drawing faces needs {name} {version}, but {have}; install it with {INSTALL}")
