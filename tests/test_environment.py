"""launch/env.sh makes the environment again if it is not complete, and refuses an unusable Python."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import program

ROOT = Path(__file__).parents[1]


def make_environment(folder: Path, python: Path) -> subprocess.CompletedProcess:
    """Run launch/env.sh in a checkout in `folder`, with an interpreter."""
    shutil.copytree(ROOT / "launch", folder / "checkout" / "launch", dirs_exist_ok=True)
    shutil.copy(ROOT / "setup.py", folder / "checkout")
    environment = os.environ | {"PYTHON": str(python)}
    command = [folder / "checkout" / "launch" / "env.sh"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('echo "pyenv: python3.12: command not found" >&2; echo "  3.11.9" >&2; exit 127\n', "python3.12: command not"),
        ("exit 1\n", "does not run (no reason given)"),
        ('[ "$1" = -c ] && echo 3.9\n', "is Python 3.9, which is too old"),
        ('[ "$1" = -c ] && echo 2.7\n', "is Python 2.7, which is too old"),
        ("exit 0\n", "is not a Python"),
        (None, "found"),
    ],
)
def test_an_unusable_interpreter_is_refused_with_the_reason(tmp_path, text, words):
    python = tmp_path / "shim" if text is None else program(tmp_path / "shim", text)
    done = make_environment(tmp_path, python)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("env.sh: ") and done.stderr.count("\n") == 1
    assert words in done.stderr and str(python) in done.stderr and "PYTHON=/path/to/python" in done.stderr


def test_an_environment_without_pip_is_made_again(tmp_path):
    """Without ensurepip, as on Debian until python3-venv is installed, Python makes one without pip, and fails."""
    half = """#!/bin/sh\ncase $2 in *pip*) exit 1 ;; esac\n"""
    text = f"""[ "$1" = -c ] && {{ echo 3.12; exit; }}
    mkdir -p "$3/bin"; printf {shlex.quote(half)} >"$3/bin/python"; chmod +x "$3/bin/python"; exit 1\n"""
    python = program(tmp_path / "shim", text)
    for _ in range(2):
        done = make_environment(tmp_path, python)
        assert done.returncode == 2 and "cannot make a virtual environment" in done.stderr
