"""Fixtures and helpers of the command-line tests. Each test file imports the fixtures that it needs."""

import shlex
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from vaedm_jax.main import main
from vaedm_jax.modes import train
from vaedm_jax.runs import rundir
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.training.checkpoints import Checkpoints
from vaedm_jax.training.loop import abstract_state
from vaedm_jax.training.stages import ddpm_stage

ROOT = Path(__file__).parents[1]
TINY = """from tests.tiny import tiny_config
def get_config(variant="form1"):
    return tiny_config(variant)
"""


@pytest.fixture(name="configs", scope="module")
def configs_fixture(tmp_path_factory):
    """Return a folder of configuration files: tiny.py, and some that are wrong."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "tiny.py").write_text(TINY)
    (folder / "syntax.py").write_text("def get_config():\n    return (\n")
    (folder / "without.py").write_text("config = 3\n")
    (folder / "raises.py").write_text("def get_config():\n    x = 1\n    return x / 0\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "nothing.py").write_text("def get_config():\n    pass\n")
    (folder / "own.py").write_text("from ml_collections import ConfigDict\nget_config = lambda: ConfigDict({'a': 1})\n")
    (folder / "typo.py").write_text(TINY.replace("return ", "c = ") + "    c.ddpm.batchsize = 3\n    return c\n")
    (folder / "type.py").write_text(TINY.replace("return ", "c = ") + "    c.ddpm.batch_size = 'x'\n    return c\n")
    (folder / "unset.py").write_text(TINY.replace("return ", "c = ") + "    c.vae.batch_size = None\n    return c\n")
    (folder / "zero.py").write_bytes(b"x = 1\0")
    (folder / "binary.py").write_bytes(b"\xff\x00\xfe")
    return folder


def save(folder: Path, value: float, step: int | None = None) -> None:
    """Save a checkpoint of the tiny plain DDPM. All its numbers are `value`, except the step if `step` is given."""
    shapes = abstract_state(ddpm_stage(tiny_config("uncond"), {}), make_mesh())
    with closing(Checkpoints(folder)) as checkpoints:
        state = jax.tree.map(lambda s: jax.device_put(np.full(s.shape, value, s.dtype), s.sharding), shapes)
        checkpoints.save(state if step is None else state.replace(step=jnp.full_like(state.step, step)))


@pytest.fixture(name="trained", scope="module")
def trained_fixture(tmp_path_factory):
    """Return the directory of a run of the tiny plain DDPM. Its parameters are all 0, since training takes too long."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    rundir.claim(workdir, tiny_config("uncond"))
    save(workdir / "ddpm" / "checkpoints", 0)
    return workdir


@pytest.fixture(name="run")
def run_fixture(tmp_path):
    """Return a directory with a run of the tiny configuration. It has only the files that are read before training."""
    rundir.claim(tmp_path / "run", tiny_config())
    (tmp_path / "run" / "vae" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "vae" / "checkpoints" / "kept").write_bytes(b"precious")
    return tmp_path / "run"


@pytest.fixture(name="untrained")
def untrained_fixture(monkeypatch):
    """Skip training, and read no checkpoint. Return the list that gets (stage, steps) of each training asked for."""
    asked = []

    def fit(stage, data, config, workdir, mesh, on_picture, params=None, begun=None):
        asked.append((stage.name, stage.settings.steps))
        return SimpleNamespace(average={})

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "begin", lambda *_: None)
    monkeypatch.setattr(train, "renew_report", lambda workdir: None)
    return asked


def files(folder: Path) -> dict[str, bytes | None]:
    """Return all that is in a folder: the bytes of each file by its path, and None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(name="refused")
def refused_fixture(tmp_path, configs, capsys):
    """Return a function that runs a command and expects a refusal that contains the words.

    {tmp}, {run}, {new} and {configs} in the command and in the words stand for folders. Nothing in {tmp} may change.
    """

    def refuse(arguments: str, *words: str, status: int = 2) -> None:
        folders = {"tmp": tmp_path, "run": tmp_path / "run", "new": tmp_path / "new", "configs": configs}
        before = files(tmp_path)
        assert main(["main", *shlex.split(arguments.format(**folders))]) == status
        printed = capsys.readouterr()
        assert printed.err.startswith("vaedm: ") and printed.err.count("\n") == 1, printed.err
        assert printed.out == ""
        for word in words:
            assert word.format(**folders) in printed.err
        assert files(tmp_path) == before

    return refuse
