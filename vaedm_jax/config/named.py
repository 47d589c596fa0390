"""The configurations of this project, by name, such as `cifar10`."""

from pathlib import Path


def named_configs() -> dict[str, Path]:
    """Return {name: file} of the configurations.

    They are in `configs/` of a checkout, and an installed package has a copy of it.
    """
    package = Path(__file__).parents[1]
    copy, checkout = package / "configs", package.parent / "configs"
    folder = copy if copy.is_dir() else checkout
    return {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
