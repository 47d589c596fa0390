"""`launch/add_missing.py` installs missing packages and leaves the installed ones alone."""

import os
import shutil
import subprocess
import venv
import zipfile
from importlib import util
from pathlib import Path

import pip
import pytest

SCRIPT = Path(__file__).parents[1] / "launch" / "add_missing.py"


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel that has only a name, a version and a requirement."""
    info = f"{name}-{version}.dist-info"
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirement}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def machine(tmp_path):
    """Return run(requirements) -> (exit status, stdout, stderr). jax 1.0 is installed, and jax 2.0 is available."""
    for folder in ("wheels", "launch", "pip"):
        (tmp_path / folder).mkdir()
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", "jax", version)
    wheel(tmp_path / "wheels", "clu", "0.5", "jax")
    wheel(tmp_path / "wheels", "modern", "3.0", "jax>=2")
    shutil.copy(SCRIPT, tmp_path / "launch")
    venv.create(tmp_path / "venv", with_pip=False)
    (tmp_path / "pip" / "pip").symlink_to(Path(pip.__file__).parent)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    only = {"PYTHONPATH": str(tmp_path / "pip"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}

    def run(requirements: list[str]) -> tuple[int, str, str]:
        (tmp_path / "setup.py").write_text(f"from setuptools import setup\nsetup(install_requires={requirements})\n")
        command = [python, tmp_path / "launch" / SCRIPT.name]
        done = subprocess.run(command, env=kept | only, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    subprocess.run([python, "-m", "pip", "install", "-q", "jax==1.0"], env=kept | only, check=True)
    return run


def test_missing_packages_are_added_and_jax_is_not_upgraded(machine):
    assert machine(["jax>=0.9", "clu"]) == (0, "added: clu 0.5\nunchanged: jax 1.0\n", "")
    assert machine(["jax>=0.9", "clu"]) == (0, "added: nothing\nunchanged: jax 1.0\n", "")


@pytest.mark.parametrize("needed", ["modern", "jax>=2"])
def test_a_requirement_that_would_change_jax_is_refused_and_nothing_is_installed(machine, needed):
    status, _, why = machine([needed])
    assert (
        status == 1
        and "(constraint) jax==1.0" in why
        and why.splitlines()[-1].startswith("add_missing.py: nothing was added")
    )
    assert machine(["jax"])[1] == "added: nothing\nunchanged: jax 1.0\n"


def test_a_package_that_pip_changed_anyway_is_reported(monkeypatch):
    spec = util.spec_from_file_location("add_missing", SCRIPT)
    spec.loader.exec_module(module := util.module_from_spec(spec))
    found = iter([{"jax": "1.0"}, {"jax": "2.0", "clu": "0.5"}])
    monkeypatch.setattr(module, "installed", lambda: next(found))
    monkeypatch.setattr(module.subprocess, "run", lambda command, **how: subprocess.CompletedProcess(command, 0))
    with pytest.raises(SystemExit, match=r"pip changed jax 1\.0 -> 2\.0"):
        module.add(["clu"])
