"""The report is one page that loads nothing. It shows what a run directory holds, even if parts are missing."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.pictures import BLUE, RED, solid
from vaedm_jax import reporting
from vaedm_jax.errors import UserError
from vaedm_jax.reporting.comparison import write_comparison
from vaedm_jax.reporting.rows import Row


class Page(HTMLParser):
    """The elements of a page with their attributes, its headings and its text. A tag that is left open is an error."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.headings, self.words, self._open = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words += data.split()
        if self._open and self._open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def save_solid(path, colour, caption="", at=None):
    reporting.save_png(path, Image.fromarray(solid(colour)[0]), caption)
    if at is not None:
        os.utime(path, (at, at))


def fill(workdir):
    """Fill a run directory with everything that a report shows, and with names that HTML must escape."""
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"seed": 7, "vae": {"blocks": "32x7,<script>", "rate": 1e-4}}))
    for stage in ("vae", "ddpm"):
        writer = reporting.MetricWriter(workdir / stage, 0)
        for step in range(10, 110, 10):
            writer.write(step, {"loss": 1000 / step, "images_per_s": 250.0, "a<b": step})
        writer.close()
        (workdir / stage / "summary.json").write_text(json.dumps({"device": "1 x <cpu>", "parameters": 1_700_000}))
        for step in range(1, 12):
            save_solid(workdir / stage / f"pictures/step_{step}.png", (step, 0, 0), f"after {step}")
    save_solid(workdir / "samples/old.png", RED, "older & wiser", at=1000)
    save_solid(workdir / "samples/warm/new.png", BLUE, '<img src="https://example.com/x.png">', at=2000)


def test_report_is_one_page_that_loads_nothing(tmp_path):
    fill(tmp_path)
    path = reporting.write_report(tmp_path, title="<people> & 'body'")
    assert path == tmp_path / "report.html"
    page = Page(path)
    references = [a[name] for _, a in page.elements for name in ("src", "href", "xlink:href", "srcset") if name in a]
    assert references and all(r.startswith(("data:image/png;base64,", "#")) for r in references)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    styles = " ".join([path.read_text(), *(a.get("style") or "" for _, a in page.elements)])
    assert "@import" not in styles and all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", styles))
    assert page.headings[0] == "<people> & 'body'"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_report_shows_what_the_run_directory_holds(tmp_path):
    fill(tmp_path)
    page = Page(reporting.write_report(tmp_path))
    assert page.headings[0] == tmp_path.name
    assert [h for h in page.headings if h in ("Samples", "Training", "Configuration", "Versions")] == [
        "Samples", "Training", "Configuration", "Versions",
    ]  # fmt: skip
    for fact in (
        "1.70 M",
        "1 x <cpu>",
        "250",
        "steps 100",
        "last mean loss 10",
        "seed 7",
        "32x7,<script>",
        "0.0001",
    ):
        assert fact in page.text
    assert "python " + ".".join(map(str, sys.version_info[:3])) in page.text and "numpy " + np.__version__ in page.text
    assert len(page.all("svg")) == 6, "loss, images_per_s and a<b, of two stages"


def test_training_and_held_out_figures_share_a_chart_and_so_do_the_ranges_of_t(tmp_path):
    (tmp_path / "ddpm").mkdir()
    figures = ("loss", "grad_norm", "held_out_loss", "held_out_loss_t0_499", "held_out_loss_t500_999")
    lines = [json.dumps({"step": i, "time": i, **dict.fromkeys(figures, i)}) for i in range(3)]
    (tmp_path / "ddpm" / "metrics.jsonl").write_text("\n".join(lines))
    page = Page(reporting.write_report(tmp_path))
    assert len(page.all("svg")) == 3
    for words in ("held_out_loss by t", "0 to 499", "500 to 999", "training", "held out"):
        assert words in page.text


def test_report_shows_samples_newest_first_and_training_first_to_last(tmp_path):
    fill(tmp_path)
    page = Page(reporting.write_report(tmp_path))
    assert '<img src="https://example.com/x.png">' in page.text and "older & wiser" in page.text
    pictures = [base64.b64decode(a["src"].split(",")[1]) for a in page.all("img")]
    colours = [Image.open(io.BytesIO(data)).getpixel((0, 0)) for data in pictures]
    assert colours[:2] == [BLUE, RED]
    assert [red for red, _, _ in colours[2:]] == [1, 3, 5, 7, 9, 11] * 2
    assert "step 11 after 11" in page.text


@pytest.mark.parametrize(
    "missing",
    ["config.json", "vae", "ddpm", "samples", "vae/metrics.jsonl", "vae/summary.json", "ddpm/pictures"],
)
def test_report_is_written_if_any_part_is_missing(tmp_path, missing):
    run = tmp_path / "run"
    fill(run)
    (run / missing).rename(tmp_path / "aside")
    assert "Versions" in Page(reporting.write_report(run)).headings


def test_report_of_an_empty_run_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    page = Page(reporting.write_report(tmp_path))
    assert "No samples yet." in page.text and "No stage has been trained yet." in page.text


def test_report_leaves_out_a_stage_that_was_taken_from_another_run(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "vae").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "vae" / "checkpoints" / "0").mkdir(parents=True)
    headings = Page(reporting.write_report(tmp_path)).headings
    assert "Stage 2: DDPM, the refiner" in headings and "Stage 1: VAE, the generator" not in headings


def test_report_of_a_comparison_has_its_scores_and_no_empty_parts(tmp_path):
    facts = {"run": "a", "variant": "form1", "sampler": "ddim", "start": "noise", "steps": 5, "nfe": 5}
    scores = {"kid_error": 1.0, "fd": None, "precision": 0.5, "recall": 0.75}
    rows = [Row(facts | {"seed": i, "n": 64}, {"f": {"kid": kid} | scores}) for i, kid in enumerate((2.0, 4.0))]
    write_comparison(tmp_path / "evaluation", rows, {"f": "FD-f"})
    page = Page(reporting.write_report(tmp_path))
    assert page.headings[1:] == ["Evaluation", "Versions"]
    assert "a ddim noise 5 64 2 3 ± 1 – 0.5 ± 0 0.75 ± 0" in page.text


def test_report_of_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        reporting.write_report(tmp_path / "nowhere")


def test_report_names_a_damaged_file(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json"):
        reporting.write_report(tmp_path)


def test_a_score_that_is_no_number_is_shown_as_missing(tmp_path):
    facts = {"run": "a", "variant": "form1", "sampler": "ddim", "start": "noise", "steps": 2, "nfe": 2}
    scores = {"kid": 0.25, "kid_error": 0.1, "fd": 0.5, "precision": 1.0, "recall": 1.0}
    write_comparison(tmp_path / "evaluation", [Row(facts | {"seed": 0, "n": 9}, {"f": scores})], {"f": "FD-f"})
    file = tmp_path / "evaluation" / "evaluation.json"
    assert "a ddim noise 2 9 1 0.25 ± 0.1 0.5 1 1" in Page(reporting.write_report(tmp_path)).text
    file.write_text(file.read_text().replace(": 0.25", ': "good"'))
    assert "a ddim noise 2 9 1 – 0.5 1 1" in Page(reporting.write_report(tmp_path)).text


def test_a_command_that_ends_with_a_report_succeeds_despite_a_damaged_file(tmp_path, capsys):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "evaluation.json").write_text('{"means_over_seeds": [')
    reporting.renew_report(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("note: ") and "report" in said and "evaluation.json" in said
    assert not (tmp_path / "report.html").exists()


def test_a_command_that_ends_with_a_report_succeeds_despite_a_folder_in_its_place(tmp_path, capsys):
    (tmp_path / "report.html").mkdir()
    reporting.renew_report(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("note: ") and "report.html is a folder" in said and said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_pause_between_a_kill_and_a_resume_does_not_count_as_training_time(tmp_path):
    times = [*range(0, 100, 10), *range(100_000, 100_110, 10)]
    (tmp_path / "vae").mkdir()
    lines = [json.dumps({"step": i, "time": t, "loss": 1}) for i, t in enumerate(times)]
    (tmp_path / "vae" / "metrics.jsonl").write_text("\n".join(lines))
    assert "duration 3 min 10 s" in Page(reporting.write_report(tmp_path)).text


def test_reporting_imports_only_storage_and_errors_and_not_pyplot(tmp_path):
    fill(tmp_path)
    code = (
        "import sys; from vaedm_jax.reporting import write_report; write_report(sys.argv[1]);"
        "ours = ('vaedm_jax', 'jax', 'tensorflow', 'torch');"
        "print(*[m for m in sys.modules if m.split('.')[0] in ours or 'pyplot' in m])"
    )
    loaded = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    rooms = {
        name for name in loaded.stdout.split() if not name.startswith(("vaedm_jax.reporting", "vaedm_jax.storage"))
    }
    assert rooms == {"vaedm_jax", "vaedm_jax.errors"}
