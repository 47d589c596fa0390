"""The style of the plots, and their conversion to images."""

import io

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

# Names are not formulas, so math text is off. The powers on a log axis would be math text, so PLAIN formats them.
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "text.parse_math": False}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def as_image(figure: Figure) -> Image.Image:
    """Return a figure as an image."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data)
