"""Install the packages that vaedm_jax requires and this Python lacks. Keep all installed versions.

    python launch/add_missing.py

Use it on an image whose JAX is built for its accelerator, such as those of Colab and Kaggle. On other machines, use
`launch/env.sh`, which makes an environment of tested versions. The script needs pip. It exits with status 1 if pip
fails or changes an installed version.
"""

import ast
import re
import subprocess
import sys
import tempfile
from importlib import invalidate_caches, metadata
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.py"
SHOWN = ("jax", "jaxlib", "libtpu", "flax", "orbax-checkpoint", "numpy")  # the packages that an image is built around


def requirements(setup: Path = SETUP) -> list[str]:
    """Return the requirements of the package, read from setup.py without running it."""
    keywords = (node for node in ast.walk(ast.parse(setup.read_text())) if isinstance(node, ast.keyword))
    return next(ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "install_requires")


def installed() -> dict[str, str]:
    """Return {name: version} of the installed packages. If a name occurs twice, the first on the path counts."""
    invalidate_caches()
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def add(needed: list[str]) -> dict[str, str]:
    """Install the missing requirements and their dependencies. Return {name: version} of what was installed.

    Exit with status 1 if pip fails, or if it changed an installed version.
    """
    before = installed()
    # Debian's packages can have versions that PEP 440 does not allow. pip cannot read these, so leave them out.
    held = [f"{name}=={version}" for name, version in before.items() if re.fullmatch(r"[\w.!+]+", version)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "installed.txt")
        constraints.write_text("\n".join(held))
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint"]
        done = subprocess.run([*pip, constraints, *needed], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}add_missing.py: nothing was added, because pip failed; its output is above")
    after = installed()
    changed = [f"{name} {old} -> {after.get(name)}" for name, old in before.items() if after.get(name) != old]
    if changed:
        raise SystemExit(f"add_missing.py: pip changed {', '.join(changed)}; start again on a fresh machine")
    return {name: version for name, version in after.items() if name not in before}


def main() -> None:
    """Install the missing requirements. Print what was added and what is unchanged."""
    if {"-h", "--help"} & set(sys.argv):
        return print(__doc__)
    added, now = add(requirements()), installed()
    print("added:", ", ".join(f"{name} {version}" for name, version in added.items()) or "nothing")
    print("unchanged:", ", ".join(f"{name} {now[name]}" for name in SHOWN if name in now and name not in added))


if __name__ == "__main__":
    main()
