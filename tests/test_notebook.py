"""`launch/colab.ipynb` runs in a kernel from its first cell to its last, and continues after an interruption."""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tests.cli_fixtures import TINY
from tests.xla import quick_xla
from vaedm_jax import VAEDM

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "launch" / "colab.ipynb"
INTERRUPT = """
import os, signal, threading, time
def interrupt():
    while not written.exists() or written.read_text().count("\\n") < 3:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)  # as Jupyter does
threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.fixture
def parameters(tmp_path, monkeypatch):
    """Return the source of parameters that make the run small: a few pictures in a .zip, and the tiny networks."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (folder := tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(folder))
    for name, value in quick_xla().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "pictures")
    names = {"CONFIG": "tiny.py", "PICTURES": "mine.zip", "RUNS": "runs"}
    return "".join(f"{name} = {str(tmp_path / value)!r}\n" for name, value in names.items())


def execute(notebook, parameters: str, settings: list[str], more: str = "") -> None:
    """Run all cells in a new kernel, with parameters that are set as by papermill."""
    (given,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    given.source += f"\n{parameters}SETTINGS = {settings}\n{more}"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()


def said(notebook) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return "".join(output.get("text", "") for output in outputs)


def pictures(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_all_cells_run_and_continue_an_interrupted_run(parameters, tmp_path):
    first, second = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    often = ["--config.log.every=1", "--config.log.pictures=1000000", "--config.checkpoint.every=1000000"]
    written = f"from pathlib import Path; written = Path({str(tmp_path)!r}, 'runs/emoji/vae/metrics.jsonl')"
    with pytest.raises(CellExecutionError, match="SystemExit"):
        execute(first, parameters, ["--config.vae.steps=1000000", *often], written + INTERRUPT)
    saved = int(re.search(r"SIGINT: saved vae at step ([\d,]+)", said(first))[1].replace(",", ""))
    assert not any(cell.get("outputs") for cell in first.cells[-10:]), "cells after the interrupted one have run"

    execute(second, parameters, [f"--config.vae.steps={saved + 2}", "--config.ddpm.steps=2"])
    assert f"for the steps {saved + 1:,} to {saved + 2:,}" in said(second)
    assert "added: nothing" in said(second)
    assert re.search(r"\rvae: 100%\|.*, loss .* left", said(second)), "no bar"
    code = [cell for cell in second.cells if cell.cell_type == "code"]
    assert [pictures(cell) for cell in code[-6:]] == [1, 1, 1, 1, 1, 0], "training, four grids, and the weights"
    model = VAEDM.from_checkpoint(tmp_path / "runs" / "emoji" / "emoji.safetensors")
    assert model.config.data.image_size == 16 and model.params["vae"] and model.params["ddpm"]


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
