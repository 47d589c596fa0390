"""The public modules have no type errors, and users of the package get its types."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vaedm_jax.diffusion.chain import Chain, ChainSettings

ROOT = Path(__file__).parents[1]
PUBLIC = ("__init__.py", "api.py", "errors.py", "config/__init__.py", "config/build.py", "config/settings.py")
PUBLIC += ("diffusion/chain.py", "sampling/engine.py")
USE = """
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from vaedm_jax import VAEDM

model = VAEDM.from_run(Path("runs/mine"))
images: np.ndarray = model.sample(4, seed=1, steps=5).images
z: np.ndarray = model.encode(jax.numpy.zeros((1, 32, 32, 3)))
model.save("mine.safetensors")
picture: Image.Image = model.interpolate(Image.open("a.png"), Image.open("b.png"), steps=5, batch_size=8).to_pil()[0]
"""
WRONG = ("seed='one'", "steps='many'", "smapler='ddim'")


def check(*files: Path, folder: Path) -> list[str]:
    """Return the errors and warnings of pyright's basic mode."""
    pytest.importorskip("basedpyright", reason="an extra of the tests")
    settings = {"include": list(map(str, files)), "typeCheckingMode": "basic", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(files), done.stdout + done.stderr
    found = report["generalDiagnostics"]
    return [f"{d['file']}:{d['range']['start']['line'] + 1}: {d['message']}" for d in found]


def test_the_public_modules_have_no_type_errors(tmp_path):
    assert check(*(ROOT / "vaedm_jax" / name for name in PUBLIC), folder=tmp_path) == []


def test_a_user_of_the_model_gets_types_and_type_errors(tmp_path):
    assert (ROOT / "vaedm_jax" / "py.typed").exists()
    (tmp_path / "use.py").write_text(USE)
    assert check(tmp_path / "use.py", folder=tmp_path) == []
    (tmp_path / "use.py").write_text(USE + "".join(f"model.sample(4, {argument})\n" for argument in WRONG))
    lines = len(USE.splitlines())
    found = {int(error.split(":")[1]) for error in check(tmp_path / "use.py", folder=tmp_path)}
    assert found == {lines + 1 + i for i in range(len(WRONG))}


def test_the_named_arguments_of_a_chain_are_its_settings_with_their_types():
    assert ChainSettings.__annotations__ == Chain.__annotations__
