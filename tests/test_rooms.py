"""Imports between the parts of the package go one way, and running it imports neither TensorFlow nor PyTorch."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_fixtures import TINY

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vaedm_jax"

# The parts (folders and modules) in each row of the README's table. A part imports only from rows below its own.
TABLE = re.search(r"^## The code\n.*?((?:\|[^\n]*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
ROWS = [re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in TABLE.splitlines()[2:]]
LEVELS = {name: len(ROWS) - i for i, row in enumerate(ROWS) for name in row}
# The libraries that some parts may import. All may import the standard library and the package.
LIBRARIES = {
    "conditioning": {"jax", "numpy"},
    "diffusion": {"jax", "numpy"},
    "models": {"flax", "jax"},
    "interop": {"flax", "ml_dtypes", "numpy"},
    "evaluation": {"flax", "jax", "numpy", "optax", "safetensors"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# Not the code that is copied into a folder of diffusers, and that only PyTorch runs.
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py" and p.parent.name != "diffusers_code"]


def test_the_readme_lists_every_part_of_the_package_once():
    assert sorted({room(path) for path in FILES}) == sorted(name for row in ROWS for name in row)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rows_below_its_own(path):
    found = {name.split(".")[1] for name in imports(path) if name.startswith("vaedm_jax.")}
    assert [name for name in found - {room(path)} if LEVELS[name] >= LEVELS[room(path)]] == []
    if (libraries := LIBRARIES.get(room(path))) is not None:
        others = {name.split(".")[0] for name in imports(path)} - {"vaedm_jax", *sys.stdlib_module_names}
        assert others <= libraries


def test_training_and_sampling_import_neither_tensorflow_nor_pytorch(tmp_path):
    """Stand-ins for both come first on the path. They record each file that imports them.

    A file that catches the error is recorded, too.
    """
    for name in ("tensorflow", "torch"):
        (tmp_path / f"{name}.py").write_text(
            "import traceback\n"
            "frames = [f.filename for f in traceback.extract_stack()[:-1] if 'importlib' not in f.filename]\n"
            f"print(frames[-1], file=open({str(tmp_path / 'seen')!r}, 'a'))\n"
            f"raise ImportError({name!r})\n"
        )
    (tmp_path / "tiny.py").write_text(TINY)
    command = ["main", f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'run'}"]
    code = (
        "import pkgutil, importlib, sys, vaedm_jax\n"
        "for m in pkgutil.walk_packages(vaedm_jax.__path__, 'vaedm_jax.'): importlib.import_module(m.name)\n"
        "from vaedm_jax.main import main\n"
        f"sys.exit(main({command}) or main({[*command, '--mode=sample']}))"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
    seen = (tmp_path / "seen").read_text().splitlines() if (tmp_path / "seen").exists() else []
    # tensorboardX tries to import PyTorch, since it can draw PyTorch's models.
    assert [file for file in seen if not file.endswith("tensorboardX/writer.py")] == []
