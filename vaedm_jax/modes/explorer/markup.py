"""The HTML of images on the page. All texts in it are the page's own, or escaped."""

import base64
from collections.abc import Sequence
from html import escape

from vaedm_jax.modes.explorer.history import History

SMALL = 128  # an image with fewer pixels a side is enlarged with visible pixels


def image(png: bytes, alt: str, size: int) -> str:
    """Return an image.

    Args:
      png: the file.
      alt: what it shows, for those who cannot see it; "" if a text beside it says so.
      size: its height in pixels.
    """
    kind = "pixels" if size < SMALL else "smooth"
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def titled(picture: str, title: str, symbol: str) -> str:
    """Return an image below its title, and the paper's symbol for it."""
    return f"<figure><figcaption>{escape(title)} <i>{escape(symbol)}</i></figcaption>{picture}</figure>"


def strip(history: History) -> str:
    """Return the strip of former pictures as a list of buttons. `data-index` is the place of each in the history."""
    items = []
    for i, (state, shown) in enumerate(history.strip):
        current = ' aria-current="true"' if state == history.now else ""
        label = f"Go back to picture {i + 1} of {len(history.strip)}"
        items.append(
            f'<li><button type="button" data-index="{i}" title="{label}" aria-label="{label}"{current}>{shown}'
            "</button></li>"
        )
    return f'<ol aria-label="Former pictures">{"".join(items)}</ol>'


def labelled(images: Sequence[str], labels: Sequence[str]) -> str:
    """Return images side by side, each above its label."""
    figures = (f"<figure>{one}<figcaption>{escape(n)}</figcaption></figure>" for one, n in zip(images, labels, strict=True))
    return f'<div class="labelled">{"".join(figures)}</div>'


def rows(*images: Sequence[str]) -> str:
    """Return rows of images."""
    return "".join(f'<div class="row">{"".join(row)}</div>' for row in images)


def note(text: str) -> str:
    """Return a sentence that a screen reader reads when it appears."""
    return f'<p role="status">{escape(text)}</p>'
