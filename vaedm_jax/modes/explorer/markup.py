"""The HTML of images on the page. The browser asks for most images by the query of their state."""

import base64
from collections.abc import Iterable
from html import escape

SMALL = 128  # the pixels of a smaller image are shown as squares


def image(source: str, alt: str, size: int) -> str:
    """Return an image.

    Args:
      source: its address; "" for one that a script fills in.
      alt: what it shows, for those who cannot see it; "" if a text beside it says so.
      size: its height in pixels.
    """
    given = f' src="{escape(source)}"' if source else ""
    return f'<img class="{"pixels" if size < SMALL else "smooth"}" alt="{escape(alt)}"{given}>'


def inline(png: bytes) -> str:
    """Return a PNG as the source of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def titled(picture: str, title: str, symbol: str = "") -> str:
    """Return an image with its title, and the paper's symbol for it."""
    return f"<figure><figcaption>{escape(title)} <i>{escape(symbol)}</i></figcaption>{picture}</figure>"


def row(pictures: Iterable[str]) -> str:
    """Return images side by side."""
    return f'<div class="images">{"".join(pictures)}</div>'


def strip(pictures: list[str], current: int) -> str:
    """Return images as a list of buttons. `data-index` is the place of each.

    Args:
      current: the place of the present one.
    """
    items = []
    for i, picture in enumerate(pictures):
        label, mark = f"Go back to picture {i + 1}", ' aria-current="true"' if i == current else ""
        button = f'<button type="button" data-index="{i}" title="{label}" aria-label="{label}"{mark}>'
        items.append(f"<li>{button}{picture}</button></li>")
    return f'<ol aria-label="Former pictures">{"".join(items)}</ol>'


def note(text: str) -> str:
    """Return a sentence that a screen reader reads when it appears."""
    return f'<p role="status">{escape(text)}</p>'
