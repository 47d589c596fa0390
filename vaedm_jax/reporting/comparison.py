"""The results of an evaluation as CSV, JSON and plots."""

import csv
import io
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from vaedm_jax.reporting.files import write_whole
from vaedm_jax.reporting.pictures import save_png

Row = dict[str, Any]
SCORES = {"kid": "KID", "fd": "{title}", "precision": "precision", "recall": "recall", "is": "Inception Score"}
# Names are no formulas, so neither are the powers on a log axis: PLAIN has to write these.
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "text.parse_math": False}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
LINES = ("-", "--", ":", "-.")


def write_comparison(folder: Path, rows: Sequence[Row], titles: dict[str, str]) -> str:
    """`evaluation.csv` (a line a seed), `evaluation.json` (that and means over seeds), `NAME.png` for each space.

    Args:
      rows: run, variant, sampler, start, steps, nfe, seed, n, and scores such as `kid_NAME`, some of them None.
      titles: what the Frechet distance in the features NAME is called.
    Returns: the means in the first space, as a table for a terminal.
    """
    means = over_seeds(rows)
    write_csv(folder / "evaluation.csv", rows)
    about = {"frechet_distance": titles, "rows": list(rows), "means_over_seeds": means}
    write_whole(folder / "evaluation.json", json.dumps(about, indent=1).encode())
    for name, title in titles.items():
        caption = f"{rows[0]['n']:,} images a point in the features '{name}'; bars: standard error"
        save_png(folder / f"{name}.png", plot(means, name, title), caption)
    return text(means, *next(iter(titles.items())))


def text(means: Sequence[Row], name: str, title: str) -> str:
    """A line for each combination, in columns."""
    lines = [("run", "sampler", "start", "NFE", "KID", "+-", title, "precision", "recall")]
    for row in means:
        scores = (row[f"{key}_{name}"] for key in ("kid", "fd", "precision", "recall"))
        kid, fd, precision, recall = ("-" if score is None else f"{score:.4g}" for score in scores)
        error = row[f"kid_{name}_sem"]
        facts = (row["run"], row["sampler"], row["start"], str(row["nfe"]))
        lines.append((*facts, kid, "-" if error is None else f"{error:.2g}", fd, precision, recall))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A table, whole; the columns are those of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode())


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """A row for each combination: means of its scores over the seeds, and their standard errors as `SCORE_sem`.

    With one seed there is an error of the kernel distance only, from blocks of its images.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("run", "variant", "sampler", "start", "steps", "nfe", "n"))
        groups.setdefault(key, []).append(row)
    means = []
    for group in groups.values():
        first = group[0]
        facts = list(first)[: list(first).index("n") + 1]
        mean = {name: first[name] for name in facts if name != "seed"} | {"seeds": len(group)}
        for name in (name for name in first if name not in facts):
            values = [row[name] for row in group]
            missing = None in values
            mean[name] = None if missing else float(np.mean(values))
            if name.split("_")[0] not in SCORES or "_error_" in name or "_bias_" in name:
                continue
            one = first.get(name.replace("kid_", "kid_error_")) if name.startswith("kid_") else None
            many = (
                None if missing else float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            )
            mean[f"{name}_sem"] = one if len(values) == 1 else many
        means.append(mean)
    return means


def plot(means: Sequence[Row], name: str, title: str) -> Image.Image:
    """Scores over evaluations: a row for each score, a column for each run, a line for each sampler and start."""
    runs, samplers, starts = (list(dict.fromkeys(row[key] for row in means)) for key in ("run", "sampler", "start"))
    scores = {f"{key}_{name}": label.format(title=title) for key, label in SCORES.items()}
    scores = {key: label for key, label in scores.items() if any(row.get(key) is not None for row in means)}
    colours = matplotlib.colormaps["tab10"].colors
    styles = {
        (sampler, start): {"color": colours[(a if len(samplers) > 1 else b) % 10], "ls": LINES[b % 4]}
        for a, sampler in enumerate(samplers)
        for b, start in enumerate(starts)
    }
    size = (2 + 3.2 * len(runs), 0.6 + 2.3 * len(scores))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        axes = figure.subplots(len(scores), len(runs), sharex=True, sharey="row", squeeze=False)
        for panels, (key, label) in zip(axes, scores.items(), strict=True):
            panels[0].set_ylabel(label)
            for panel, run in zip(panels, runs, strict=True):
                lines(panel, [row for row in means if row["run"] == run and row.get(key) is not None], key, styles)
            set_scales(panels[0], [row[key] for row in means if row.get(key) is not None], [r["nfe"] for r in means])
        for top, bottom, run in zip(axes[0], axes[-1], runs, strict=True):
            top.set_title(run)
            bottom.set_xlabel("evaluations of the network")
        handles = {text: h for p in axes.flat for h, text in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
        return as_image(figure)


def lines(panel: Axes, rows: Sequence[Row], key: str, styles: dict[tuple[str, str], dict]) -> None:
    """One score of one run, with bars of its standard error."""
    for (sampler, start), style in styles.items():
        chosen = [row for row in rows if (row["sampler"], row["start"]) == (sampler, start)]
        if points := sorted((row["nfe"], row[key], row[f"{key}_sem"] or 0) for row in chosen):
            x, y, error = zip(*points, strict=True)
            label = f"{sampler}, {start}"
            panel.errorbar(x, y, error, marker=".", lw=1.2, capsize=2, label=label, **style)


def set_scales(panel: Axes, values: Sequence[float], nfe: Sequence[int]) -> None:
    """Those of a row of panels, which share them: logarithmic where a range is wide."""
    ticks = sorted(set(nfe))
    panel.set_xscale("log" if len(ticks) > 1 else "linear")
    panel.set_xticks(ticks, spaced(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    if min(values) > 0 and max(values) > 10 * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(PLAIN)
        panel.yaxis.set_minor_formatter(NullFormatter())


def spaced(ticks: Sequence[int]) -> list[str]:
    """Labels of ticks on a log axis; one that would touch the next larger one is left empty."""
    return [str(a) if b is None or b > 1.2 * a else "" for a, b in zip_longest(ticks, ticks[1:])]


def as_image(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(data)
