"""The benchmarks refuse what they cannot measure in one line."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.processes import program

ROOT = Path(__file__).parents[1]


def test_a_benchmark_of_no_program_names_the_programs(tmp_path):
    command = [sys.executable, ROOT / "launch" / "benchmark.py", f"--out={tmp_path}", "--only=nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--only=nothing: no program" in done.stderr and "full train 16" in done.stderr


def script(name, monkeypatch):
    """Return a script of launch/ as a module."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "launch"), *sys.path])
    spec = importlib.util.spec_from_file_location(name, ROOT / "launch" / f"{name}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.fixture
def bench(monkeypatch):
    return script("gpu_bench", monkeypatch)


def test_growth_is_the_exponent_of_the_sizes(monkeypatch):
    growth = script("growth", monkeypatch)
    found = growth.curve("side", growth.sizes(2, 8, False), lambda size: (3 * size**2, size * 2**20))
    assert found.row() == "| side | 2, 4, 8 | 12, 48, 192 | 2.00 | 2, 4, 8 | 1.00 |"
    assert growth.Curve("images", [1, 10], [1, 10], None).row() == "| images | 1, 10 | 1, 10 | 1.00 |  |  |"


def test_the_network_of_diffusers_is_timed_in_runs_of_ten_steps(bench, tmp_path, monkeypatch):
    worker = """read -r spec; read -r runs; echo a note
    echo '@{"torch": "2.0", "parameters": 7}'; echo '@{"seconds": [0.3, 0.2, 9], "memory_MB": 1}'\n"""
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", worker)))
    monkeypatch.setattr(bench, "find_spec", lambda name: True)
    (line,) = bench.pytorch(SimpleNamespace(tiny=False), batch=64)
    assert line["ms"] == pytest.approx(30) and line["images_per_s"] == pytest.approx(64 / 0.03)
    assert (line["kind"], line["parameters"]) == ("torch.compile", 7)


def test_a_benchmark_of_a_gpu_that_fails_ends_in_one_line(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "drive", lambda options: [])
    monkeypatch.setattr(sys, "argv", ["gpu_bench.py", f"--out={tmp_path / 'gpu.json'}"])
    with pytest.raises(SystemExit, match="no train step could be measured"):
        bench.main()
