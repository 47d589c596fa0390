"""The style of the plots."""

import io

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

# Names are no formulas, so neither are the powers on a log axis: PLAIN has to write these.
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "text.parse_math": False}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def as_image(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data)
