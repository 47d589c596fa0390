"""Every setting that sizes an array, a loop or a file has an upper bound, and an error of one line says why."""

import json
import math
import shlex
import time

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.cli_fixtures import configs_fixture, refused_fixture, run_fixture, trained_fixture  # noqa: F401
from tests.tiny import tiny_config
from vaedm_jax.config import base_config, flatten, settings
from vaedm_jax.config.checks import check
from vaedm_jax.data import some
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.errors import UserError, check_range
from vaedm_jax.main import main
from vaedm_jax.models.blocks import parse_blocks, parse_channels
from vaedm_jax.runs import rundir
from vaedm_jax.runtime import memory
from vaedm_jax.training.loop import total_steps

DIGITS = "9" * 5000  # more than Python converts from text or to text
SETTINGS = flatten(base_config())


def numeric(value) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in value) if value else False


NUMBERS = {n: v for n, v in SETTINGS.items() if numeric(v if isinstance(v, tuple) else (v,))}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_finite_upper_bound_and_its_default_is_within(name):
    section, _, short = name.partition(".")
    of_chain = section == "sample" and short in Chain.__dataclass_fields__
    found = Chain.__dataclass_fields__[short].metadata["range"] if of_chain else settings.SETTINGS[name].range
    assert math.isfinite(found.high)
    check_range(name, NUMBERS[name], found.low, found.high)


def hostile(name: str) -> list[str]:
    low = {"restore.n": "-7", "ddpm.t_mean": "-51"}.get(name, "-1")
    large = [str(10**36), DIGITS, "0x" + "f" * 5000, low, "nan", "1e400"]
    if isinstance(SETTINGS[name], tuple):
        return [f"({v},)" for v in large] + ["(" * 5000, "(1," * 300 + ")" * 300, str((1,) * 3000).replace(" ", "")]
    return large


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_its_bounds_is_refused_in_a_short_line(configs, tmp_path, capsys, name):
    for value in hostile(name):
        began = time.monotonic()
        command = ["main", f"--config={configs}/tiny.py", f"--workdir={tmp_path}/new", f"--config.{name}={value}"]
        assert main(command) == 2, value[:40]
        said = capsys.readouterr().err
        assert said.startswith("vaedm: ") and said.count("\n") == 1 and len(said) < 700 and name in said, said[:900]
        assert time.monotonic() - began < 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("ddpm.T=1000000000", ["at most 100,000, since", "entry for each step"]),
        ("ddpm.steps=10000000000", ["at most 2,147,483,647, since", "32 bits"]),
        ("data.image_size=100000", ["at most 8,192"]),
        ("sample.batch_size=1000000000", ["at most", "in memory"]),
        ("sample.seed=4294967295 --config.eval.seeds=2", ["last seed", "4294967296"]),
        ("data.workers=100000", ["a process of its own"]),
        ("eval.features=" + "x" * 20_000, ["length of eval.features", "at most 10,000"]),
        ("ddpm.multipliers=" + "1," * 1500, ["length of ddpm.multipliers", "at most 1,000"]),
        ("ddpm.condition=downsample" + DIGITS, ["ddpm.condition"]),
        ("eval.split=" + "x" * 5000, ["eval.split", "5,002 characters"]),
    ],
)
def test_a_bound_says_why_it_is_there(refused, setting, words):
    refused("--config={configs}/tiny.py --workdir={new} --config." + setting, *words)


def test_arrays_that_do_not_fit_in_memory_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**30)
    for changes, words in [
        ({"sample.batch_size": 2**19}, "sample.batch_size = 524,288.* 1.5 GiB .* 1.0"),
        ({"log.scored": 2**19}, "log.scored"),
        ({"figures.z": 1024, "figures.x_T": 1024}, "figures.z = 1,024 and figures.x_T = 1,024"),
    ]:
        with pytest.raises(UserError, match=words):
            check(tiny_config(**changes), to_train=False)
        check(tiny_config(**changes), to_train=False, to_run=False)
    images = np.broadcast_to(np.zeros((), np.uint8), (2**20, 16, 16, 3))
    assert some(images, 10).shape == (10, 16, 16, 3)
    with pytest.raises(UserError, match=r"1,048,576 images .* 3.0 GiB"):
        some(images, 0)


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        (
            "0::/job/step\n",
            {"job/step/memory.max": "max", "job/memory.max": "5000", "memory.max": "9000"},
            {5000, 9000},
        ),
        ("0::/\n", {"memory.max": "4096\n"}, {4096}),  # as seen from inside a container
        ("5:cpu:/a\n4:hugetlb,memory:/a\n", {"memory/a/memory.limit_in_bytes": "66", "cpu/a/memory.max": "1"}, {66}),
        ("4:memory:/host/a\n", {"memory/memory.limit_in_bytes": "77"}, {77}),
        ("4:memory:/a\n0::/\n", {}, set()),
    ],
)
def test_a_container_has_the_memory_that_its_control_groups_leave_it(tmp_path, groups, files, expected):
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(groups)
    assert set(memory.limits(tmp_path / "groups", tmp_path / "own")) == expected
    assert set(memory.limits(tmp_path / "groups", tmp_path / "none")) == set()


def test_real_use_is_within_the_bounds():
    real = {"sample.n": 10_000_000, "eval.n": 50_000, "ddpm.steps": 10**9, "data.image_size": 1024, "ddpm.T": 4000}
    real |= {"vae.batch_size": 16, "ddpm.batch_size": 16, "sample.batch_size": 16, "eval.seeds": 100}
    check(tiny_config(**real), to_train=False)


def test_epochs_that_make_too_many_steps_are_refused(monkeypatch):
    settings = tiny_config(**{"ddpm.steps": 0, "ddpm.epochs": 1e9}).ddpm
    with pytest.raises(UserError, match=r"1e\+09 epochs over 1,000,000 images .* 32 bits"):
        total_steps(settings, 10**6)


BLOCKS = [
    ("1x200000000", "at most 1,000"),
    ("16x1000000000", "cannot read"),
    ("16x" + DIGITS, "cannot read"),
    (DIGITS + "x1", "cannot read"),
    (",".join(["16x999"] * 3), "1998"),
    (",".join(["16x1"] * 1001), "1001"),
    ("16d999999999", "at most 8,192"),
    ("4z999999", "at most 65,536"),
]


@pytest.mark.parametrize(("text", "words"), BLOCKS, ids=[text[:20] for text, _ in BLOCKS])
def test_a_block_string_has_a_bound(text, words):
    began = time.monotonic()
    with pytest.raises(UserError, match=words) as error:
        parse_blocks(text)
    assert time.monotonic() - began < 0.5 and len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["16:999999", "99999:8", f"16:{DIGITS}", "16:0", "16:8," * 3000])
def test_a_string_of_widths_has_a_bound(text):
    with pytest.raises(UserError) as error:
        parse_channels(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("vae", "enc_block", "1x200000000"),
        ("vae", "dec_block", "16x1000000000"),
        ("vae", "channels", "16:" + DIGITS),
        ("ddpm", "T", 10**12),
        ("ddpm", "channels", 2**40),
        ("ddpm", "multipliers", [2**30]),
        ("ddpm", "blocks", 10**9),
        ("ddpm", "condition", "downsample" + DIGITS),
        ("data", "image_size", 10**7),
        ("sample", "steps", 10**12),
        ("sample", "n", None),
        ("vae", "precision", "float99"),
    ],
)
def test_settings_in_a_run_or_in_a_file_of_weights_have_the_same_bounds(refused, run, tmp_path, section, name, value):
    stored = json.loads((run / "config.json").read_text())
    stored[section][name] = value
    (run / "config.json").write_text(json.dumps(stored))
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors.numpy.save({"vae/a": np.zeros(1, np.float32)}, {"config": json.dumps(stored)}))
    began = time.monotonic()
    refused("--workdir={run} --mode=sample")
    refused("--workdir={new} --mode=sample --config.sample.weights={tmp}/w.safetensors")
    assert time.monotonic() - began < 3


def test_the_size_of_a_picture_is_checked_after_padding(tmp_path, capsys, monkeypatch):
    """A picture of 1 x 4,000 pixels is padded to 4 x 4,000, since the U-Net takes multiples of 4."""
    from tests.tiny import random_params
    from vaedm_jax.api import VAEDM
    from vaedm_jax.training.stages import ddpm_stage, vae_stage

    config = tiny_config()
    model = VAEDM(config, random_params(vae_stage(config)), random_params(ddpm_stage(config, {})))
    model.save(tmp_path / "w.safetensors")
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (4000, 1)).save(tmp_path / "mine" / "line.png")
    command = f"main --workdir={tmp_path}/out --mode=restore --config.sample.weights={tmp_path}/w.safetensors"
    files = f" --config.restore.files={tmp_path}/mine --config.restore.task=denoise --config.restore.pixels=5000"
    assert main(shlex.split(command + files)) == 2
    assert "line.png: 4000 x 2 pixels would be restored, 8,000" in capsys.readouterr().err


def test_the_configuration_of_a_run_is_read_unchanged(run):
    assert rundir.read_config(run) == tiny_config()
