"""Write the tables and the plot of the study from the evaluations of launch/study.sh.

    python launch/study.py WORKDIR    writes WORKDIR/study.csv, WORKDIR/tables.md and WORKDIR/study.png

A point is a model, a start, a sampler and a number of evaluations of the network. Its scores are means over the
training seeds. If there are two seeds or more, the means have 95 % intervals by Student's t.
"""

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import t as student

SCORES = ("kid_avatars", "fd_avatars", "fd_random", "precision_avatars", "recall_avatars")
TITLES = ("KID", "FD-avatars", "FD-random", "precision", "recall")
CLAIMS = (5, 10, 25, 50)  # N: VAEDM at N evaluations is compared with the plain DDPM at 2 N and 4 N
NOISE, NORMAL, WARM = "noise", "noise, z from N(0, I)", "x̂"
Scores = dict[str, np.ndarray]  # each [seeds]; "seed" has the seeds


class Point(NamedTuple):
    """One combination that is scored. `kind` is the prediction of the network."""

    variant: str
    kind: str
    start: str
    sampler: str
    nfe: int


def points(workdir: Path) -> dict[Point, Scores]:
    """Return the scores of each point over all seeds, read from WORKDIR/scores/*/evaluation/evaluation.csv."""
    found = defaultdict(lambda: defaultdict(list))
    for file in sorted((workdir / "scores").glob("*/evaluation/evaluation.csv")):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                point, seed = point_of(row)
                found[point]["seed"].append(seed)
                for name in SCORES:
                    found[point][name].append(float(row[name] or "nan"))
    return {point: {name: np.array(values) for name, values in of.items()} for point, of in found.items()}


def point_of(row: dict[str, str]) -> tuple[Point, int]:
    """Return the point and the seed of a row, whose run is named VARIANT-KIND-SEED, or VARIANT-KIND-SEED-PRIOR."""
    variant, kind, seed, prior = re.fullmatch(r"(\w+)-(\w+)-(\d+)(-\w+)?", row["run"]).groups()
    start = WARM if row["start"].startswith("warm") else NOISE if prior or variant == "uncond" else NORMAL
    return Point(variant, kind, start, row["sampler"], int(row["nfe"])), int(seed)


def interval(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of a mean, or NaN for one value."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def shown(values: np.ndarray) -> str:
    """Return the mean with its interval as text."""
    mean, half = values.mean(), interval(values)
    return f"{mean:.3g}" if np.isnan(half) else f"{mean:.3g} ± {half:.2g}"


def table(found: dict[Point, Scores], variant: str, kind: str) -> list[str]:
    """Return a Markdown table of all points of a model."""
    chosen = sorted((p for p in found if (p.variant, p.kind) == (variant, kind)), key=lambda p: p[2:])
    lines = [
        f"| start | sampler | evaluations | {' | '.join(TITLES)} |",
        f"| --- | --- | ---: |{' ---: |' * len(TITLES)}",
    ]
    for p in chosen:
        scores = " | ".join(shown(found[p][name]) for name in SCORES)
        lines.append(f"| {p.start} | `{p.sampler}` | {p.nfe} | {scores} |")
    return lines


def claims(found: dict[Point, Scores], variant: str, kind: str, sampler: str) -> list[str]:
    """Return a Markdown table: VAEDM at N against the plain DDPM of the same `kind` and seeds at 2 N and 4 N."""
    lines = ["| N | start | score | VAEDM at N | DDPM at 2 N | difference | DDPM at 4 N | difference |"]
    lines.append("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for n in CLAIMS:
        for start in (NOISE, WARM):
            mine = found.get(Point(variant, kind, start, sampler, n))
            if mine is None:
                continue
            for name, title in zip(SCORES[:3], TITLES, strict=False):
                cells = [str(n), start, title, shown(mine[name])]
                for times in (2, 4):
                    other = found.get(Point("uncond", kind, NOISE, sampler, times * n))
                    paired = other is not None and np.array_equal(other["seed"], mine["seed"])
                    cells += [shown(other[name]), shown(mine[name] - other[name])] if paired else ["–", "–"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(found: dict[Point, Scores], kinds: list[str], file: Path) -> None:
    """Plot KID, FD-avatars and FD-random over the evaluations of `unipc2`, with a row for each `kind`."""
    figure, axes = plt.subplots(len(kinds), 3, figsize=(13, 4 * len(kinds)), squeeze=False, sharey="col")
    for row, kind in zip(axes, kinds, strict=True):
        lines = sorted({p[:4] for p in found if p.kind == kind and p.sampler == "unipc2"})
        for axis, name, title in zip(row, SCORES, TITLES, strict=False):
            axis.set(xscale="log", title=f"{title}, predicts {kind}", xlabel="evaluations of the network")
            # The KID of good samples can be below 0.
            axis.set_yscale(**{"value": "symlog", "linthresh": 0.1} if name.startswith("kid") else {"value": "log"})
            ticks = sorted({p.nfe for p in found if p[:4] in lines})
            axis.set_xticks(ticks, map(str, ticks))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.yaxis.set_major_formatter("{x:g}")
            if not name.startswith("kid"):
                axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
                axis.yaxis.set_minor_formatter("{x:.2g}")
            for line in lines:
                nfe = sorted(p.nfe for p in found if p[:4] == line)
                values = [found[Point(*line, n)][name] for n in nfe]
                label = f"{line[0]}, from {line[2]}"
                axis.errorbar(nfe, [v.mean() for v in values], [interval(v) for v in values], label=label, capsize=2)
        row[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def main(workdir: Path) -> None:
    """Write the tables, the CSV file and the plot to WORKDIR."""
    found = points(workdir)
    if not found:
        sys.exit(f"study.py: {workdir} has no evaluations; launch/study.sh makes them")
    models = sorted({(p.variant, p.kind) for p in found})
    compared = sorted({p.kind for p in found if (p.variant, p.sampler) == ("uncond", "unipc2")})
    text = []
    for variant, kind in models:
        if variant != "uncond" and kind in compared:
            text += [f"## {variant}, {kind}: does VAEDM at N match the plain DDPM at 2 N and 4 N?", ""]
            text += [*claims(found, variant, kind, "unipc2"), ""]
    for variant, kind in models:
        text += [f"## {variant}, {kind}", "", *table(found, variant, kind), ""]
    (workdir / "tables.md").write_text("\n".join(text))
    with (workdir / "study.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Point._fields, "seeds", *(f"{name}{of}" for name in SCORES for of in ("", "_95"))])
        for p, scores in sorted(found.items()):
            pairs = [(values.mean(), interval(values)) for values in map(scores.get, SCORES)]
            writer.writerow([*p, len(scores["seed"]), *(f"{v:.5g}" for pair in pairs for v in pair)])
    if whole := [kind for kind in compared if not kind.startswith("short_")]:
        plot(found, whole, workdir / "study.png")
    print(f"wrote the tables of {len(found)} points to {workdir}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/study"))
