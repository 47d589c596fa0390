"""The rooms of the package import one way, and neither TensorFlow nor PyTorch is imported to run it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_fixtures import TINY

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vaedm_jax"

# What a room may import of the others: those above it in this list, if they are named.
ROOMS = {
    "errors": set(),
    "bounds": {"errors"},
    "published": set(),
    "storage": {"errors"},
    "conditions": {"errors"},
    "diffusion": {"errors"},
    "models": {"errors"},
    "data": {"errors", "storage", "bounds"},
    "reporting": {"errors", "storage"},
    "interop": {"errors", "models"},
    "mesh": {"errors", "bounds"},
    "hosts": {"errors"},
    "evaluation": {"errors", "storage", "diffusion", "data", "reporting", "interop", "mesh", "hosts"},
    "trust": {"errors"},
    "config": {"errors", "storage", "trust", "bounds", "conditions", "diffusion", "published"},
    "checks": {"errors", "bounds", "conditions", "config", "diffusion"},
    "rundir": {"errors", "storage", "config", "checks", "reporting"},
    "training": {"errors", "storage", "conditions", "diffusion", "models", "data", "reporting", "mesh", "hosts"},
    "inputs": {"errors"},
    "generation": {"conditions", "diffusion", "models", "evaluation", "training"},
    "model_files": {"errors", "conditions", "models", "reporting", "storage", "config", "rundir", "training"},
    "api": {
        "checks",
        "model_files",
        *("errors", "diffusion", "models", "reporting", "mesh", "hosts", "config", "rundir", "training", "generation"),
        *("inputs", "conditions", "storage"),
    },
    "store": {"errors", "diffusion", "storage", "data", "reporting", "mesh", "hosts", "inputs", "generation", "api"},
    "images": {"data", "config", "rundir", "api"},
    "likelihood": {"data", "storage", "reporting", "mesh", "config", "generation", "api"},
    "train": {
        "checks",
        *("errors", "diffusion", "models", "data", "reporting", "mesh", "hosts", "evaluation", "config", "rundir"),
        *("training", "api", "conditions", "storage", "store"),
    },
    "sample": {"checks", "errors", "images", "data", "reporting", "hosts", "config", "rundir", "api", "store"},
    "evaluate": {
        "checks",
        *("errors", "diffusion", "data", "reporting", "hosts", "evaluation", "config", "api", "store", "likelihood"),
        *("rundir", "storage", "images"),
    },
    "restoration": {"errors", "storage", "conditions", "diffusion", "generation", "api"},
    "restore": {
        "checks",
        *("errors", "storage", "data", "diffusion", "evaluation", "reporting", "config", "rundir", "api"),
        *("restoration", "images"),
    },
    "figures": {
        "checks",
        "errors",
        *("diffusion", "data", "evaluation", "reporting", "config", "inputs", "api", "evaluate", "restoration"),
        *("store", "images"),
    },
    "explore": {
        "checks",
        "errors",
        "diffusion",
        "data",
        "reporting",
        "config",
        "rundir",
        "inputs",
        "api",
        "store",
        "restoration",
        "images",
    },
    "priors": {"checks", "errors", "bounds", "images", "models", "data", "reporting", "evaluation", "config", "api"},
    "targets": {"errors"},
    "plan": {
        "checks",
        *("errors", "data", "evaluation", "config", "generation", "mesh", "reporting", "targets", "training"),
        "conditions",
    },
    "shards": {"errors", "storage", "data", "reporting"},
    "prepare": {"checks", "errors", "storage", "data", "reporting", "config", "shards"},
    "convert": {
        "checks",
        *("errors", "published", "storage", "diffusion", "models", "reporting", "interop", "config", "training", "api"),
        "conditions",
    },
    "flags": {"errors", "storage", "trust", "config", "rundir"},
    "failures": {"errors", "hosts", "storage"},
    "main": {
        *("errors", "storage", "mesh", "hosts", "reporting", "rundir", "train", "sample", "evaluate", "restore"),
        *("figures", "explore", "targets", "plan", "prepare", "priors", "convert", "flags", "failures"),
    },
}
LIBRARIES = {
    "conditions": {"jax", "numpy"},
    "diffusion": {"jax", "numpy"},
    "models": {"flax", "jax"},
    "interop": {"flax", "ml_dtypes", "numpy"},
    "evaluation": {"flax", "jax", "numpy", "optax", "safetensors"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def test_every_room_has_its_place_and_all_imports_go_one_way():
    assert {room(path) for path in FILES} == set(ROOMS)
    order = list(ROOMS)
    for name, allowed in ROOMS.items():
        assert allowed <= set(order[: order.index(name)])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path):
    found = {name.split(".")[1] for name in imports(path) if name.startswith("vaedm_jax.")}
    assert found <= ROOMS[room(path)] | {room(path)}
    if (libraries := LIBRARIES.get(room(path))) is not None:
        others = {name.split(".")[0] for name in imports(path)} - {"vaedm_jax", *sys.stdlib_module_names}
        assert others <= libraries


def test_training_and_sampling_import_neither_tensorflow_nor_pytorch(tmp_path):
    """Packages of these names stand first on the path, and note down who imports them, be it in vain."""
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
    # tensorboardX can draw PyTorch's models where PyTorch is installed, and asks whether it is.
    assert [file for file in seen if not file.endswith("tensorboardX/writer.py")] == []
