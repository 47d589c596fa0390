"""Adds what vaedm_jax needs and this Python lacks, and changes nothing that is installed.

    python launch/add_missing.py

For an image that comes with JAX built for its accelerator, such as those of Colab and Kaggle. Elsewhere `launch/env.sh`
makes an environment of tested versions. Needs pip. Exit status 1 where that cannot be, or something was changed.
"""

import ast
import re
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.py"
SHOWN = ("jax", "jaxlib", "libtpu", "flax", "orbax-checkpoint", "numpy")  # what an image is built around


def requirements(setup: Path = SETUP) -> list[str]:
    """What the package requires, read from setup.py without running it."""
    keywords = (node for node in ast.walk(ast.parse(setup.read_text())) if isinstance(node, ast.keyword))
    return next(ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "install_requires")


def installed() -> dict[str, str]:
    """Name -> version of what this Python finds; of two of one name the first on the path counts."""
    invalidate_caches()
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def add(needed: list[str]) -> dict[str, str]:
    """Install what is missing of the requirements and of theirs, and return it as name -> version."""
    before = installed()
    # A version that PEP 440 does not know, as Debian's packages may have, is one that pip would not read.
    held = [f"{name}=={version}" for name, version in before.items() if re.fullmatch(r"[\w.!+]+", version)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "installed.txt")
        constraints.write_text("\n".join(held))
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint"]
        done = subprocess.run([*pip, constraints, *needed], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}add_missing.py: nothing was added, since pip could not (the reason is above)")
    after = installed()
    changed = [f"{name} {old} -> {after.get(name)}" for name, old in before.items() if after.get(name) != old]
    if changed:
        raise SystemExit(f"add_missing.py: pip changed {', '.join(changed)}; begin anew with a fresh machine")
    return {name: version for name, version in after.items() if name not in before}


def main() -> None:
    """Add, and say what was added and what stayed."""
    if {"-h", "--help"} & set(sys.argv):
        return print(__doc__)
    added, now = add(requirements()), installed()
    print("added:", ", ".join(f"{name} {version}" for name, version in added.items()) or "nothing, all is there")
    print("as it was:", ", ".join(f"{name} {now[name]}" for name in SHOWN if name in now and name not in added))


if __name__ == "__main__":
    main()
