"""The results of an evaluation as CSV, JSON and plots."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from PIL import Image

from vaedm_jax.reporting.pictures import save_png
from vaedm_jax.reporting.plots import PLAIN, STYLE, as_image
from vaedm_jax.reporting.rows import Row, Scores, aligned, over_seeds
from vaedm_jax.storage.writing import write_csv, write_whole

TITLES = {"kid": "KID", "fd": "{title}", "precision": "precision", "recall": "recall", "is": "Inception Score"}
LINES = ("-", "--", ":", "-.")


def write_comparison(folder: Path, rows: Sequence[Row], titles: dict[str, str]) -> str:
    """Write the results of an evaluation, and return the means in the first space as a table for a terminal.

    The files are `evaluation.csv` (a row for each seed), `evaluation.json` (the same and the means over the seeds), and
    `NAME.png` for each space NAME.

    Args:
      titles: the name of the Frechet distance in each space.
    """
    means = over_seeds(rows)
    lines, of_means = ([row.columns for row in some] for some in (rows, means))
    write_csv(folder / "evaluation.csv", lines)
    about = {"frechet_distance": titles, "rows": lines, "means_over_seeds": of_means}
    write_whole(folder / "evaluation.json", json.dumps(about, indent=1).encode())
    for name, title in titles.items():
        caption = f"scores in the features '{name}', {rows[0].facts['n']:,} images for each point; bars: standard error"
        save_png(folder / f"{name}.png", plot(means, name, title), caption)
    return as_text(means, *next(iter(titles.items())))


def as_text(means: Sequence[Row], name: str, title: str) -> str:
    """Return the means in one space as text, with a line for each combination."""
    lines = [("run", "sampler", "start", "NFE", "KID", "+-", title, "precision", "recall")]
    for row in means:
        scores = row.scores[name]
        values = (scores[key] for key in ("kid", "fd", "precision", "recall"))
        kid, fd, precision, recall = ("-" if value is None else f"{value:.4g}" for value in values)
        error, facts = scores["kid_sem"], (str(row.facts[fact]) for fact in ("run", "sampler", "start", "nfe"))
        lines.append((*facts, kid, "-" if error is None else f"{error:.2g}", fd, precision, recall))
    return aligned(lines)


def plot(means: Sequence[Row], name: str, title: str) -> Image.Image:
    """Plot scores over NFE: a row for each score, a column for each run, a line for each sampler and start."""
    facts, of = [row.facts for row in means], [row.scores[name] for row in means]
    runs, samplers, starts = (list(dict.fromkeys(fact[key] for fact in facts)) for key in ("run", "sampler", "start"))
    scores = {key: label.format(title=title) for key, label in TITLES.items()}
    scores = {key: label for key, label in scores.items() if any(found.get(key) is not None for found in of)}
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
                pairs = zip(facts, of, strict=True)
                draw_lines(panel, [(f, found) for f, found in pairs if f["run"] == run], key, styles)
            values = [found[key] for found in of if found.get(key) is not None]
            set_scales(panels[0], values, [fact["nfe"] for fact in facts])
        for top, bottom, run in zip(axes[0], axes[-1], runs, strict=True):
            top.set_title(run)
            bottom.set_xlabel("evaluations of the network")
        handles = {text: h for p in axes.flat for h, text in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
        return as_image(figure)


def draw_lines(
    panel: Axes, pairs: Sequence[tuple[dict, Scores]], key: str, styles: dict[tuple[str, str], dict]
) -> None:
    """Draw one score of one run, with bars for its standard error.

    A score of samples that take no evaluation of the network, such as those of a VAE, is a horizontal line.
    """
    there = [(facts, scores) for facts, scores in pairs if scores.get(key) is not None]
    for (sampler, start), style in styles.items():
        chosen = [(f["nfe"], s) for f, s in there if (f["sampler"], f["start"]) == (sampler, start)]
        if points := sorted((nfe, scores[key], scores[f"{key}_sem"] or 0) for nfe, scores in chosen):
            x, y, error = zip(*points, strict=True)
            label = f"{sampler}, {start}"
            if not any(x):
                panel.axhline(y[0], lw=1.2, label=label, **style)
                continue
            panel.errorbar(x, y, error, marker=".", lw=1.2, capsize=2, label=label, **style)


def set_scales(panel: Axes, values: Sequence[float], nfe: Sequence[int]) -> None:
    """Set the scales that a row of panels shares. A scale is logarithmic if its range is wide."""
    ticks = sorted(set(nfe) - {0})
    panel.set_xscale("log" if len(ticks) > 1 else "linear")
    panel.set_xticks(ticks, tick_labels(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    if min(values) > 0 and max(values) > 10 * min(values):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(PLAIN)
        panel.yaxis.set_minor_formatter(NullFormatter())


def tick_labels(ticks: Sequence[int]) -> list[str]:
    """Return the labels of ticks on a log axis. A label that would touch the next larger one is empty."""
    return [str(a) if b is None or b > 1.2 * a else "" for a, b in zip_longest(ticks, ticks[1:])]
