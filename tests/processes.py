"""Run commands of the tiny configuration as separate processes, which can be killed, and stand-ins for programs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from tests.cli_fixtures import ROOT, TINY
from tests.xla import quick_xla
from vaedm_jax.runs import rundir
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.loop import restore_average
from vaedm_jax.training.stages import ddpm_stage, vae_stage

PATIENCE = 300  # seconds


def start(workdir: Path, *arguments: str, **how) -> subprocess.Popen:
    """Start a command on a run directory. Without a mode, it trains the tiny configuration."""
    command = [sys.executable, "-m", "vaedm_jax.main", f"--workdir={workdir}", *arguments]
    if not any(argument.startswith("--mode=") for argument in arguments):
        (workdir.parent / "tiny.py").write_text(TINY)
        command.append(f"--config={workdir.parent / 'tiny.py'}")
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    environment = os.environ | quick_xla() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, **{"cwd": ROOT, "env": environment, **output, **how})


def ended(process: subprocess.Popen, status: int = 0) -> str:
    """Wait for a process to end with this status, and return what it printed on stderr."""
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, said
    return said


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Return as soon as something has happened, or the process has ended."""
    while process.poll() is None and not happened():
        time.sleep(0.005)


def lines(workdir: Path) -> int:
    """Return the number of lines of metrics of both stages."""
    return sum(file.read_text().count("\n") for file in workdir.glob("*/metrics.jsonl"))


def weights(workdir: Path, best: bool = True) -> list[np.ndarray]:
    """Return all averaged weights of both stages; with `best`, also those of the best state of the second stage."""
    config, mesh = rundir.read_config(workdir), make_mesh()
    vae = restore_average(vae_stage(config), workdir, mesh)
    found = [restore_average(ddpm_stage(config, vae), workdir, mesh, b) for b in (False, True)[: 1 + best]]
    assert all(found)
    return [np.asarray(a) for a in jax.tree.leaves((vae, found))]


def program(path: Path, text: str) -> Path:
    """Write a program for bash, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return path
