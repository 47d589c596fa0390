"""The report of a run directory: one self-contained HTML file to read, print or send."""

import base64
import json
import platform
import re
import time
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.reporting.metrics import read_metrics
from vaedm_jax.reporting.page import PAGE
from vaedm_jax.reporting.rows import column
from vaedm_jax.storage import read_json, read_png
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.writing import write_whole

STAGES = {"vae": "Stage 1: VAE, the generator", "ddpm": "Stage 2: DDPM, the refiner"}
PACKAGES = ("vaedm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
SCORES = {"run": str, "sampler": str, "start": str, "nfe": int, "n": int, "seeds": int}
EVALUATION = {"frechet_distance?": {str: str}, "means_over_seeds?": [SCORES]}
SUMMARY = {"parameters?": int, "device?": str}
GRIDS = 6  # grids that are shown of the training of a stage


def write_report(workdir: Path | str, title: str | None = None) -> Path:
    """Write WORKDIR/report.html from the files that exist, and return its path.

    Args:
      title: by default the name of the directory.

    Raises:
      UserError: the directory does not exist, or a file in it is damaged.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such directory; it must be the directory of a run")
    # A stage that was taken from elsewhere has only checkpoints, and nothing to show.
    stages = [s for s in STAGES if {path.name for path in (workdir / s).glob("*")} - {"checkpoints"}]
    training = "".join(_training(workdir / stage) for stage in stages)
    config = _read_json(workdir / "config.json")
    scores = _scores(_read_json(workdir / "evaluation" / "evaluation.json", EVALUATION))
    body = [
        f'<div class="stages">{"".join(_stage_card(workdir / stage) for stage in stages)}</div>',
        _section("Samples", _figures(workdir, "samples/**/*.png"), "No samples yet." if config else ""),
        _section("Evaluation", scores + _figures(workdir, "evaluation/*.png")),
        _section("Figures", _figures(workdir, "figures/*.png")),
        _section("Restored", _figures(workdir, "restored/*.png")),
        _section("Training", training, "No stage has been trained yet." if config else ""),
        _section("Configuration", _table(config)),
        _section("Versions", _table(_versions())),
    ]
    title = title or shown(workdir.resolve().name)
    page = PAGE.substitute(
        title=escape(title),
        subtitle=escape("VAEs meet Diffusion Models: a VAE generates, a diffusion model refines"),
        body="\n".join(body),
        footer=time.strftime("Written %Y-%m-%d %H:%M UTC.", time.gmtime()),
    )
    path = workdir / "report.html"
    write_whole(path, page.encode(errors="backslashreplace"))
    return path


def renew_report(workdir: Path) -> None:
    """Write the report at the end of a command, or print a note if a file in the directory is damaged.

    The command has succeeded, so a damaged file of another command must not make it fail.
    """
    try:
        write_report(workdir)
    except UserError as error:
        print(f"note: the report was not updated: {error}", flush=True)


def _section(title: str, content: str, otherwise: str = "") -> str:
    """Return a section of the page. Without content it shows `otherwise`, or is left out if that is empty."""
    content = content or (f'<p class="soft">{otherwise}</p>' if otherwise else "")
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _scores(about: dict) -> str:
    """Return a table of the means over the seeds in `evaluation.json`, with a row for each combination."""
    facts = ("run", "sampler", "start", "nfe", "n", "seeds")
    titles = about.get("frechet_distance", {})
    scores = {(name, key): text for name, title in titles.items() for key, text in _score_titles(name, title).items()}
    lines = []
    for row in about.get("means_over_seeds", []):
        values, errors = ([row.get(column(key + what, name)) for name, key in scores] for what in ("", "_sem"))
        lines.append([*(str(row[fact]) for fact in facts), *map(_value, values, errors)])
    head = "".join(f"<th>{escape(text)}</th>" for text in (*facts, *scores.values()))
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>' if lines else ""


def _score_titles(name: str, title: str) -> dict[str, str]:
    """Return the headings of the scores in a space, by score."""
    return {"kid": f"KID, {name}", "fd": title, "precision": "precision", "recall": "recall"}


def _value(value: Any, error: Any) -> str:
    """Return a score with its error, such as `0.5 ± 0.1`; a dash if there is none, or if it is no number."""
    value, error = (number if isinstance(number, int | float) else None for number in (value, error))
    return "–" if value is None else f"{value:.3g}" + ("" if error is None else f" ± {error:.1g}")


def _stage_card(folder: Path) -> str:
    """Return a card with up to six facts of a stage."""
    lines, summary = read_metrics(folder), _read_json(folder / "summary.json", SUMMARY)
    losses, speeds = _column(lines, "loss")[1], _column(lines, "images_per_s")[1]
    facts = {
        "steps": f"{lines[-1]['step']:,}" if lines else None,
        "last mean loss": f"{losses[-1]:.4g}" if len(losses) else None,
        "images/s": f"{np.nanmedian(speeds):,.3g}" if np.isfinite(speeds).any() else None,
        "duration": _duration(lines) if len(lines) > 1 else None,
        "parameters": _short_number(summary.get("parameters")),
        "device": summary.get("device"),
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items() if value is not None
    )
    return f'<div class="card"><h2>{STAGES[folder.name]}</h2><dl class="facts">{items}</dl></div>'


def _figures(workdir: Path, pattern: str) -> str:
    """Return the pictures that match a pattern, the newest first."""
    paths = sorted(workdir.glob(pattern), key=lambda path: (-path.stat().st_mtime_ns, path))
    return "".join(_figure(path, str(path.relative_to(workdir))) for path in paths)


def _training(folder: Path) -> str:
    """Return the charts of all scalars (the loss first), grids in the order of steps, and the summary of a stage."""
    from vaedm_jax.reporting.curves import curve_svg  # here, since it takes a third of a second

    lines = read_metrics(folder)
    names = {name: None for line in lines for name in line} | {"loss": None}  # a dict, for its order
    names = ["loss", *(name for name in names if name not in ("loss", "step", "time"))]
    curves: dict[str, dict] = {}
    for name in names:
        chart, label = _chart_and_label(name)
        curves.setdefault(chart, {})[label] = _column(lines, name)
    charts = [(name, curve_svg(lines, f"{folder.name}{i}")) for i, (name, lines) in enumerate(curves.items())]
    figures = [f"<figure><figcaption><b>{escape(name)}</b></figcaption>{svg}</figure>" for name, svg in charts if svg]
    paths = sorted(folder.glob("pictures/*.png"), key=lambda path: (_step(path), path))
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), GRIDS)).round().astype(int))]
    grids = [_figure(path, f"step {_step(path):,}") for path in chosen]
    return (
        f"<h3>{STAGES[folder.name]}</h3>"
        f'<div class="charts">{"".join(figures)}</div><div class="grids">{"".join(grids)}</div>'
        f"{_table(_read_json(folder / 'summary.json'))}"
    )


def _chart_and_label(name: str) -> tuple[str, str]:
    """Return the chart of a scalar, and its label there.

    The ranges of t share a chart. Held-out and training images share one too.
    """
    if by_t := re.fullmatch(r"(.+)_t(\d+)_(\d+)", name):
        return f"{by_t[1]} by t", f"{by_t[2]} to {by_t[3]}"
    return name.removeprefix("held_out_"), "held out" if name.startswith("held_out_") else "training"


def _figure(path: Path, name: str) -> str:
    """Return a picture as an HTML figure, with its name and its caption above it."""
    data, caption = read_png(path)
    return (
        f"<figure><figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption>"
        f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{escape(name)}"></figure>'
    )


def _table(values: dict) -> str:
    """Return an object as a table; "" if it is empty."""
    return f"<table>{_table_rows(values, 0)}</table>" if values else ""


def _table_rows(values: dict, depth: int) -> str:
    """Return rows of two columns. A nested object is a heading, with its rows indented below it."""
    rows, indent = [], f' style="padding-left:{1.2 * depth:g}rem"'
    for name, value in values.items():
        name = escape(str(name))
        if isinstance(value, dict) and value:
            rows += [f'<tr><th colspan="2"{indent}>{name}</th></tr>', _table_rows(value, depth + 1)]
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append(f"<tr><th{indent}>{name}</th><td>{escape(text)}</td></tr>")
    return "".join(rows)


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages, and the platform."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**versions, "platform": platform.platform()}


def _read_json(path: Path, form: Any = dict) -> dict:
    """Return the object in a file, {} if the file does not exist; raise UserError if it has another form."""
    return read_json(path, form, nan=True) if path.exists() else {}


def _column(lines: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps [N], values [N]) of the lines that have this scalar."""
    pairs = [(line["step"], line[name]) for line in lines if name in line]
    return tuple(np.asarray(pairs, float).reshape(-1, 2).T)


def _duration(lines: list[dict]) -> str:
    """Return the time spent training. Much longer gaps than usual, as between a kill and a resume, do not count."""
    gaps = np.diff(_column(lines, "time")[1])
    seconds = round(float(gaps[gaps <= 30 * max(1.0, np.median(gaps))].sum()))
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _short_number(number) -> str | None:
    """Return a number in a short form, such as `1.70 M` for 1700000."""
    if not isinstance(number, int):
        return number
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"


def _step(path: Path) -> int:
    """Return the last number in the name of a picture; 0 if there is none."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else 0
