"""Charts of curves over the steps as inline SVG, in the colours of the page around them."""

import io
import re
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

INK = "#010203"  # a placeholder, which is replaced by the text colour of the page
LINES = ("#3b7dd8", "#d9822b", "#3a9d6e", "#9a5fc4", "#c9504f")
POINTS = 150  # of a curve; a chart of this width cannot show more
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "curve",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
}


def curve_svg(curves: dict, prefix: str) -> str:
    """Return a chart of {label: (steps [N], values [N])} as SVG; "" if no value is finite.

    The steps are divided into at most 150 intervals. A line shows the mean in each interval, and a band the range. The
    y axis is logarithmic if the values are positive and span more than a factor of 10. Values that are not finite are
    left out.

    Args:
      prefix: makes the ids in the chart differ from those of other charts on the page.
    """
    finite = {}
    for label, curve in curves.items():
        curve = np.asarray(curve, float)
        if (keep := np.isfinite(curve[1])).any():
            finite[label] = curve[:, keep]
    if not finite:
        return ""
    values = np.concatenate([curve[1] for curve in finite.values()])

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.3), layout="constrained")
        axes = figure.add_subplot()
        for (label, curve), colour in zip(finite.items(), cycle(LINES)):
            count = min(curve.shape[1], POINTS)
            steps, parts = (np.array_split(row, count) for row in curve)
            x = [p.mean() for p in steps]
            axes.fill_between(x, [p.min() for p in parts], [p.max() for p in parts], color=colour, alpha=0.25, lw=0)
            axes.plot(x, [p.mean() for p in parts], color=colour, lw=1.4, marker="." if count < 3 else "", label=label)
        if len(finite) > 1:
            axes.legend(frameon=False, ncols=2, fontsize=8)
        axes.margins(x=0.01)
        if values.min() > 0 and values.max() > 10 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axes.yaxis.set_minor_locator(LogLocator(subs=()))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        svg = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return _inline(svg.getvalue(), prefix)


def _inline(svg: str, prefix: str) -> str:
    """Return the <svg> element for HTML: without prolog and namespaces, and with `prefix` before its ids."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
