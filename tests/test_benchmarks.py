"""The benchmarks refuse what they cannot measure in one line."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_a_benchmark_of_no_program_names_the_programs(tmp_path):
    command = [sys.executable, ROOT / "launch" / "benchmark.py", f"--out={tmp_path}", "--only=nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--only=nothing: no program" in done.stderr and "full train 16" in done.stderr


def test_a_benchmark_of_a_gpu_that_fails_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("gpu_bench", ROOT / "launch" / "gpu_bench.py")
    spec.loader.exec_module(bench := importlib.util.module_from_spec(spec))
    monkeypatch.setattr(bench, "drive", lambda options: [])
    monkeypatch.setattr(sys, "argv", ["gpu_bench.py", f"--out={tmp_path / 'gpu.json'}"])
    with pytest.raises(SystemExit, match="no train step could be measured"):
        bench.main()
