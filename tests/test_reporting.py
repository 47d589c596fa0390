"""Pictures, metrics, progress and the report, read back by other means than those that wrote them."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vaedm_jax import reporting
from vaedm_jax.errors import RunError, UserError
from vaedm_jax.reporting.curves import curve_svg

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def solid(*colours, height=8, width=8):
    """[N, height, width, 3] uint8, one colour an image."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), height, width, 3))


def box(picture, colour):
    """(left, top, right, bottom) of the pixels of one colour, and whether it fills that box."""
    found = (np.asarray(picture) == colour).all(-1)
    ys, xs = np.nonzero(found)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return (left, top, right, bottom), found.sum() == (right - left) * (bottom - top)


# --- pictures


def test_every_grey_level_survives_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8)
    assert (reporting.to_uint8(levels / 255) == levels).all()
    assert (reporting.to_uint8(levels) == levels).all()


def test_floats_are_rounded_and_clipped_and_nan_is_black():
    given = [-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0, np.inf, np.nan]
    assert reporting.to_uint8(np.array(given, np.float32)).tolist() == [0, 0, 0, 1, 255, 255, 255, 0]


def test_integers_of_unknown_range_are_refused():
    with pytest.raises(UserError, match="int64"):
        reporting.to_uint8(np.zeros((2, 2), np.int64))


def test_grid_puts_each_image_where_it_belongs():
    picture = reporting.grid([solid(RED, GREEN), solid(BLUE) / 255.0], scale=3)
    (red, red_full), (green, green_full), (blue, blue_full) = (box(picture, c) for c in (RED, GREEN, BLUE))
    assert red_full and green_full and blue_full
    assert all((b[2] - b[0], b[3] - b[1]) == (24, 24) for b in (red, green, blue))
    assert green[1] == red[1] and green[0] > red[2], "the same row, with a gap between"
    assert blue[0] == red[0] and blue[1] > red[3], "the next row, with a gap between"
    assert (np.asarray(picture)[: red[1]] == 255).all()


def test_enlargement_repeats_pixels():
    image = np.random.default_rng(0).integers(0, 200, (1, 4, 5, 3), np.uint8)
    found = np.asarray(reporting.grid([image], scale=2))[2:-2, 2:-2]
    assert (found == np.kron(image[0], np.ones((2, 2, 1), np.uint8))).all()


@pytest.mark.parametrize("width, shown", [(8, 64), (28, 84), (32, 64), (48, 96), (64, 64), (128, 128)])
def test_small_tiles_are_enlarged_by_default_and_others_are_not(width, shown):
    (left, _, right, _), _ = box(reporting.grid([solid(RED, width=width)]), RED)
    assert right - left == shown


def test_labels_stand_at_the_left_of_their_rows():
    rows = [solid(RED, width=64, height=64), solid(BLUE, width=64, height=64)]
    picture = np.asarray(reporting.grid(rows, labels=["x̂", ""]))
    (left, top, _, bottom), _ = box(picture, RED)
    (_, second, _, _), _ = box(picture, BLUE)
    assert left > 10
    assert (picture[top:bottom, :left] < 100).any(), "the first row's text"
    assert (picture[second:, :left] == 255).all(), "the second has none"


@pytest.mark.parametrize(
    "rows, labels",
    [
        ([], None),
        ([solid(RED), solid(RED, width=9)], None),
        ([np.zeros((8, 8, 3))], None),
        ([solid(RED)], ["a", "b"]),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, labels):
    with pytest.raises(UserError, match="must be"):
        reporting.grid(rows, labels)


@pytest.mark.parametrize(
    "n, columns, lengths", [(9, None, [3, 3, 3]), (7, None, [3, 3, 1]), (5, 4, [4, 1]), (0, None, [])]
)
def test_tile_keeps_the_order_in_near_square_rows(n, columns, lengths):
    rows = reporting.tile(np.arange(n), columns)
    assert [len(row) for row in rows] == lengths
    assert [i for row in rows for i in row] == list(range(n))


@pytest.mark.parametrize("caption", ["", "64 samples, seed 0", "x̂ → x, η = 1\nsecond line <b>"])
def test_a_png_carries_its_pixels_and_its_caption(tmp_path, caption):
    path = tmp_path / "new" / "folder" / "a.png"
    reporting.save_png(path, Image.fromarray(solid(BLUE)[0]), caption)
    assert reporting.read_caption(path) == caption
    with Image.open(path) as image:
        assert (np.asarray(image) == solid(BLUE)[0]).all()
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_plain_caption_is_a_text_chunk(tmp_path):
    reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(RED)[0]), "seed 0")
    assert b"tEXtDescription\0seed 0" in (tmp_path / "a.png").read_bytes()


def test_a_write_that_is_cut_short_leaves_the_old_picture(tmp_path, monkeypatch):
    reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(RED)[0]), "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        reporting.save_png(tmp_path / "a.png", Image.fromarray(solid(BLUE)[0]), "new")
    assert reporting.read_caption(tmp_path / "a.png") == "old"
    assert list(tmp_path.glob("*.png")) == [tmp_path / "a.png"]


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    with pytest.raises(UserError, match=r"a\.png"):
        reporting.read_caption(tmp_path / "a.png")


# --- metrics


def write_steps(folder, steps, resume_step=0, loss=1.0):
    writer = reporting.MetricWriter(folder, resume_step)
    for step in steps:
        writer.write(step, {"loss": loss})
    writer.close()


def file_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_write_is_one_strict_json_line_on_disk_at_once(tmp_path):
    writer = reporting.MetricWriter(tmp_path, 0)
    writer.write(10, {"loss": np.float32(0.5), "kl": float("nan")})
    text = (tmp_path / "metrics.jsonl").read_text()
    writer.close()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert text.endswith("\n") and line.pop("time") > 1.6e9
    assert line == {"step": 10, "loss": 0.5, "kl": None}
    assert np.isnan(reporting.read_metrics(tmp_path)[0]["kl"])


def test_a_continued_run_has_each_step_once(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40], loss=1.0)
    write_steps(tmp_path, [30, 40, 50], resume_step=20, loss=2.0)
    assert [(line["step"], line["loss"]) for line in file_lines(tmp_path)] == [
        (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(1, 46, 4))
def test_a_line_torn_by_a_kill_is_dropped_and_written_again(tmp_path, cut):
    write_steps(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["step"] for line in reporting.read_metrics(tmp_path)] == ([10, 20] if cut == 1 else [10])
    write_steps(tmp_path, [20, 30], resume_step=10)
    assert [line["step"] for line in file_lines(tmp_path)] == [10, 20, 30]


def test_a_broken_line_inside_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        reporting.MetricWriter(tmp_path, 3)
    assert path.read_text() == '{"step": 1}\nrubbish\n{"step": 3}\n'


def test_no_metrics_are_an_empty_list(tmp_path):
    assert reporting.read_metrics(tmp_path) == []


def test_a_full_disk_ends_the_run_with_a_line(tmp_path, monkeypatch):
    writer = reporting.MetricWriter(tmp_path, 0)
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no space"):
        patch.setattr(os, "write", lambda *_: 3)
        writer.write(1, {"loss": 1.0})
    writer.close()
    writer.close()


def tensorboard(folder):
    """{(tag, step): value} as TensorBoard shows it: a session that starts at s hides the steps from s on."""
    shown = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return shown


def test_tensorboard_shows_each_step_once_too(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40], loss=1.0)
    write_steps(tmp_path, [30], resume_step=20, loss=2.0)
    assert tensorboard(tmp_path / "tb") == {("loss", 10): 1.0, ("loss", 20): 1.0, ("loss", 30): 2.0}


# --- progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_steps(stream, first, last, seconds, total=None, start=0):
    """What a run of steps first ... last shows, each of which takes `seconds`."""
    clock = Clock()
    with reporting.Progress(total or last, start, "vae", images_per_step=32, stream=stream, clock=clock) as progress:
        for step in range(first, last + 1):
            clock.now += seconds
            progress.update(step, 2.0 / step)
    return stream.getvalue()


def test_a_log_gets_a_plain_line_every_ten_seconds():
    lines = run_steps(io.StringIO(), 1, 100, seconds=0.5).split("\n")
    steps = [int(re.search(r"step (\d+)/100", line)[1]) for line in lines[:-1]]
    assert steps == [1, 21, 41, 61, 81, 100] and lines[-1] == ""
    assert lines[1] == "vae: step 21/100, loss 0.09524, 64 images/s, 00:39 left"
    assert not any("\r" in line or "|" in line for line in lines)


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left():
    shown = run_steps(Terminal(), 1, 50, seconds=1.0, total=110)
    last = shown.rstrip().split("\r")[-1]
    assert "vae" in last and "50/110" in last and "loss 0.04, 32 images/s, 01:00 left" in last


def test_speed_does_not_count_the_steps_before_a_resume():
    lines = run_steps(io.StringIO(), 9001, 9100, seconds=1.0, start=9000).splitlines()
    assert "images/s" not in lines[0]
    assert all("32 images/s" in line for line in lines[1:]) and "01:29 left" in lines[1]


def test_speed_follows_the_last_minute():
    clock = Clock()
    progress = reporting.Progress(1000, 0, "vae", images_per_step=10, stream=io.StringIO(), clock=clock)
    assert progress.images_per_s is None
    for step in range(1, 301):
        clock.now += 10 if step <= 100 else 1
        progress.update(step, 0.0)
    assert progress.images_per_s == pytest.approx(10)


def test_a_loss_is_fetched_only_when_it_is_shown():
    class Loss:
        fetched = 0

        def __float__(self):
            Loss.fetched += 1
            return 0.5

    stream, clock = io.StringIO(), Clock()
    with reporting.Progress(1000, 0, "ddpm", stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 0.25
            progress.update(step, Loss())
    assert Loss.fetched == stream.getvalue().count("\n") == 4, "at 0, 10 and 20 s, and at the end"


# --- the report


class Page(HTMLParser):
    """A page's elements with their attributes, its headings, its text; fails if a tag is left open."""

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
    """A run directory with everything in it, and with names that are no good in HTML."""
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


def test_report_is_one_page_that_asks_for_nothing(tmp_path):
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


def test_report_shows_what_the_run_left(tmp_path):
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
        "last loss 10",
        "seed 7",
        "32x7,<script>",
        "0.0001",
    ):
        assert fact in page.text
    assert "python " + ".".join(map(str, sys.version_info[:3])) in page.text and "numpy " + np.__version__ in page.text
    assert len(page.all("svg")) == 6, "loss, images_per_s and a<b, of two stages"


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
def test_report_does_with_any_part_missing(tmp_path, missing):
    run = tmp_path / "run"
    fill(run)
    (run / missing).rename(tmp_path / "aside")
    assert "Versions" in Page(reporting.write_report(run)).headings


def test_report_of_an_empty_directory_says_so(tmp_path):
    page = Page(reporting.write_report(tmp_path))
    assert "No samples yet." in page.text and "No stage has been trained yet." in page.text


def test_report_of_no_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        reporting.write_report(tmp_path / "nowhere")


def test_report_names_a_damaged_file(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json"):
        reporting.write_report(tmp_path)


def test_a_pause_between_a_kill_and_a_resume_is_no_training_time(tmp_path):
    times = [*range(0, 100, 10), *range(100_000, 100_110, 10)]
    (tmp_path / "vae").mkdir()
    lines = [json.dumps({"step": i, "time": t, "loss": 1}) for i, t in enumerate(times)]
    (tmp_path / "vae" / "metrics.jsonl").write_text("\n".join(lines))
    assert "duration 3 min 10 s" in Page(reporting.write_report(tmp_path)).text


def curve_heights(values):
    """The y of each vertex of the curve."""
    svg = curve_svg(range(len(values)), values, "p")
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #3b7dd8', svg)
    return np.array(re.findall(r"[ML] \S+ (\S+)", path), float)


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    assert np.ptp(np.diff(curve_heights([1000, 100, 10, 1]))) < 0.01, "equal factors are equal distances"
    assert np.ptp(np.diff(curve_heights([4, 3, 2, 1]))) < 0.01, "equal differences are, otherwise"
    assert np.ptp(np.diff(curve_heights([3, 1, -1, -3]))) < 0.01


def test_a_curve_leaves_out_what_is_not_finite():
    assert len(curve_heights([4, np.nan, 3, 1, np.inf])) == 3
    assert curve_svg([1, 2], [np.nan, np.inf], "p") == ""


def test_a_long_run_makes_a_short_curve():
    values = np.random.default_rng(0).uniform(1, 2, 100_000)
    assert len(curve_svg(range(len(values)), values, "p")) < 50_000


def test_the_room_stands_alone_and_keeps_no_global_figure(tmp_path):
    fill(tmp_path)
    code = (
        "import sys; from vaedm_jax.reporting import write_report; write_report(sys.argv[1]);"
        "ours = ('vaedm_jax', 'jax', 'tensorflow', 'torch');"
        "print(*[m for m in sys.modules if m.split('.')[0] in ours or 'pyplot' in m])"
    )
    loaded = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    rooms = {name for name in loaded.stdout.split() if not name.startswith("vaedm_jax.reporting")}
    assert rooms == {"vaedm_jax", "vaedm_jax.errors"}
