"""The installed package: its public names, its configurations and its command work outside the checkout."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import vaedm_jax
from vaedm_jax import UserError
from vaedm_jax.command_line import load
from vaedm_jax.config import flatten
from vaedm_jax.config.named import named_configs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", name="built")
def built_fixture(tmp_path_factory):
    """Build the package as for a wheel, and return the folder."""
    if not find_spec("setuptools"):
        pytest.skip("setuptools is not installed: Python 3.12 and later do not bring it")
    folder = tmp_path_factory.mktemp("build")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "build", "-b", folder, "--build-lib"]
    subprocess.run([*command, folder / "lib"], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_public_names_are_listed_and_the_error_is_a_value_error():
    assert {"VAEDM", "UserError", "__version__"} <= set(dir(vaedm_jax))
    assert vaedm_jax.VAEDM.__module__ == "vaedm_jax.api" and issubclass(UserError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'VEADM'"):
        vaedm_jax.VEADM  # noqa: B018


def test_a_configuration_is_named_or_is_a_file():
    assert named_configs().keys() == {file.stem for file in (ROOT / "configs").glob("*.py")}
    named, of_file = load("avatars:form2"), load(f"{ROOT}/configs/avatars.py:form2")
    assert flatten(named) == flatten(of_file) and flatten(named) != flatten(load("avatars"))
    with pytest.raises(
        UserError, match=r"avatar is not there; give a file, or one of afhq_256, avatars, .*, ffhq_128, own$"
    ):
        load("avatar")


def test_the_package_has_configurations_data_and_weights_outside_the_checkout(built, tmp_path):
    program = (
        "import vaedm_jax; from vaedm_jax.config.named import named_configs; from vaedm_jax.command_line import load; "
        "print(vaedm_jax.__file__, *named_configs().values(), load('cifar10').data.image_size)"
    )
    lib = built / "lib"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(lib)}, capture_output=True, text=True
    )
    *files, size = done.stdout.split()
    assert size == "32" and len(files) == 1 + len(named_configs()), done.stderr
    assert all(Path(file).is_relative_to(lib) for file in files)
    for file in ("py.typed", "data/avatars_32.npz", "weights/avatars.safetensors", "interop/diffusers_code/vae.py"):
        assert (lib / "vaedm_jax" / file).exists()
    assert not (lib / "vaedm_jax" / "weights" / "avatars-64.safetensors").exists(), "the wheel would be too large"


def test_the_command_is_the_command_line_and_the_version_is_stated_once(built):
    info = built / "vaedm_jax.egg-info"
    module, name = re.search(r"vaedm = ([\w.]+):(\w+)", (info / "entry_points.txt").read_text()).groups()
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert f"\nVersion: {vaedm_jax.__version__}\n" in (info / "PKG-INFO").read_text()
