"""Metrics are on disk at once, and each step is stored once, however the run ended before."""

import json
import os
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vaedm_jax import reporting
from vaedm_jax.errors import RunError, UserError


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


def test_weights_and_biases_gets_the_same_scalars_and_a_continued_run_is_one_run(tmp_path, monkeypatch):
    runs, logged = [], []

    def init(**facts):
        runs.append(facts)
        return SimpleNamespace(
            log=lambda scalars, step: logged.append((step, scalars)), finish=lambda: logged.append("end")
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for resume_step in (0, 10):
        writer = reporting.MetricWriter(tmp_path, resume_step, "faces", {"seed": 3})
        writer.write(resume_step + 10, {"loss": 0.5})
        writer.close()
    assert logged == [(10, {"loss": 0.5}), "end", (20, {"loss": 0.5}), "end"] and runs[0] == runs[1]
    assert runs[0]["project"] == "faces" and runs[0]["config"] == {"seed": 3} and runs[0]["resume"] == "allow"
    assert [line["step"] for line in file_lines(tmp_path)] == [10, 20]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: 1 / 0))
    with pytest.raises(UserError, match=r"log\.wandb = 'faces': division by zero; WANDB_MODE=offline"):
        reporting.MetricWriter(tmp_path, 20, "faces")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        reporting.MetricWriter(tmp_path, 20, "faces")


def test_offline_weights_and_biases_writes_beside_the_metrics(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="an extra: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writer = reporting.MetricWriter(tmp_path, 0, "faces", {"seed": 3})
    writer.write(10, {"loss": 0.5})
    writer.close()
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize("cut", range(1, 46, 4))
def test_a_line_torn_by_a_kill_is_dropped_and_written_again(tmp_path, cut):
    write_steps(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["step"] for line in reporting.read_metrics(tmp_path)] == ([10, 20] if cut == 1 else [10])
    write_steps(tmp_path, [20, 30], resume_step=10)
    assert [line["step"] for line in file_lines(tmp_path)] == [10, 20, 30]


def test_a_broken_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        reporting.MetricWriter(tmp_path, 3)
    assert path.read_text() == '{"step": 1}\nrubbish\n{"step": 3}\n'


def test_a_sync_puts_all_lines_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    writer = reporting.MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 1.0})
    writer.sync()
    there = (tmp_path / "metrics.jsonl").stat()
    assert [(s.st_ino, s.st_size) for s in synced] == [(there.st_ino, there.st_size)] and there.st_size
    writer.close()


def test_missing_metrics_are_an_empty_list(tmp_path):
    assert reporting.read_metrics(tmp_path) == []


def test_a_full_disk_ends_the_run_with_an_error(tmp_path, monkeypatch):
    writer = reporting.MetricWriter(tmp_path, 0)
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no space"):
        patch.setattr(os, "write", lambda *_: 3)
        writer.write(1, {"loss": 1.0})
    writer.close()
    writer.close()


def tensorboard(folder):
    """Return {(tag, step): value} as TensorBoard shows it. A session that starts at s hides older values from s on."""
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


def test_tensorboard_shows_each_step_once(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40], loss=1.0)
    write_steps(tmp_path, [30], resume_step=20, loss=2.0)
    assert tensorboard(tmp_path / "tb") == {("loss", 10): 1.0, ("loss", 20): 1.0, ("loss", 30): 2.0}
