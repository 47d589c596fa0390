"""The golden arrays of the published implementation, and the command with which users check a folder of them."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import golden
from vaedm_jax.interop import names
from vaedm_jax.models import count, init_unet, init_vae
from vaedm_jax.models.blocks import parse_blocks
from vaedm_jax.models.unet import UNet
from vaedm_jax.models.vae import VAE

FOLDER = Path(__file__).parent / "golden_arrays"
ARCHITECTURES = json.loads((FOLDER / "published_architectures.json").read_text())
UNETS = {name: entry for name, entry in ARCHITECTURES.pop("unet").items() if name != "note"}
VAES = ARCHITECTURES
KEYS = json.loads((FOLDER / "published_checkpoint_keys.json").read_text())


def test_every_golden_array_is_reproduced():
    lines, good = golden.check_folder(FOLDER)
    assert good, "\n".join(lines)
    assert [line.split()[0] for line in lines] == sorted(path.name for path in FOLDER.glob("*.npz"))
    assert all(line.endswith(": ok") for line in lines)


# --- the check finds errors


def arrays():
    with np.load(FOLDER / "vae.npz") as file:
        return dict(file)


def outputs():
    """Return the arrays of vae.npz that are outputs: neither weights, nor inputs, nor the configuration."""
    return {name: a for name, a in arrays().items() if not name.startswith("w/") and name not in ("x", "z", "config")}


def check(monkeypatch, capsys, folder):
    monkeypatch.setattr(sys, "argv", ["golden", str(folder)])
    return golden.main(), capsys.readouterr().out


def test_a_sound_folder_passes(tmp_path, monkeypatch, capsys):
    shutil.copy(FOLDER / "vae.npz", tmp_path)
    status, said = check(monkeypatch, capsys, tmp_path)
    assert status == 0 and f"in {len(outputs())} arrays" in said and "ok" in said


def test_a_folder_without_golden_arrays_fails(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    status, said = check(monkeypatch, capsys, tmp_path)
    assert status == 1 and "no golden arrays" in said and str(tmp_path) in said
    assert check(monkeypatch, capsys, tmp_path / "missing")[0] == 1


def test_a_truncated_file_fails_and_the_others_are_still_checked(tmp_path, monkeypatch, capsys):
    whole = (FOLDER / "unet_attn8.npz").read_bytes()
    (tmp_path / "unet_attn8.npz").write_bytes(whole[: len(whole) // 2])
    shutil.copy(FOLDER / "vae.npz", tmp_path)
    status, said = check(monkeypatch, capsys, tmp_path)
    torn, sound = said.splitlines()
    assert status == 1 and torn.startswith("unet_attn8.npz") and "cannot be checked" in torn and sound.endswith("ok")


@pytest.mark.parametrize("name", ["process.npz", "unet_x.npz", "vae.npz"])
def test_a_file_without_arrays_fails(tmp_path, monkeypatch, capsys, name):
    np.savez(tmp_path / name)
    status, said = check(monkeypatch, capsys, tmp_path)
    assert status == 1 and said.startswith(name) and "cannot be checked" in said


def test_a_file_that_lacks_an_array_fails(tmp_path, monkeypatch, capsys):
    d = arrays()
    del d["decoded"]
    np.savez(tmp_path / "vae.npz", **d)
    status, said = check(monkeypatch, capsys, tmp_path)
    assert status == 1 and "decoded" in said


def one_percent(array):
    array.flat[np.argmax(np.abs(array))] *= 1.01
    return array


def not_a_number(array):
    array.flat[0] = np.nan
    return array


@pytest.mark.parametrize("spoil", [one_percent, not_a_number, lambda array: array[..., :-1]])
def test_one_wrong_array_fails_and_is_named(tmp_path, monkeypatch, capsys, spoil):
    largest = max(outputs(), key=lambda name: outputs()[name].size)
    np.savez(tmp_path / "vae.npz", **{**arrays(), largest: spoil(arrays()[largest])})
    status, said = check(monkeypatch, capsys, tmp_path)
    assert status == 1 and f"worst {largest}: OVER the tolerance" in said


def test_a_wrong_weight_fails(tmp_path, monkeypatch, capsys):
    d = arrays()
    d["w/enc.in_conv.weight"] = one_percent(d["w/enc.in_conv.weight"])
    np.savez(tmp_path / "vae.npz", **d)
    assert check(monkeypatch, capsys, tmp_path)[0] == 1


def test_without_a_folder_the_usage_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["golden"])
    assert golden.main() == 2 and "usage" in capsys.readouterr().err


# --- the shapes of the published networks


def unet_shapes(name):
    entry = UNETS[name]
    network = UNet(
        channels=entry["channels"],
        multipliers=tuple(entry["multipliers"]),
        blocks=entry["blocks"],
        attention=tuple(entry["attention"]),
        heads=entry["heads"],
    )
    return jax.eval_shape(lambda key: init_unet(network, 32, key, shown=True), jax.random.key(0))


def vae_shapes(name):
    entry = VAES[name]
    network = VAE(entry["enc_block"], entry["dec_block"], entry["channels"])
    assert network.z_dim == entry["z_dim"]
    size = parse_blocks(entry["enc_block"])[0].size
    return jax.eval_shape(lambda key: init_vae(network, size, key), jax.random.key(0))


def check_published(shapes, entry, keys, table):
    """Check the number of parameters and, if the keys of the checkpoint are known, that they give these parameters."""
    assert count(shapes) == entry["parameters"]
    if keys is not None:
        state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in keys.items()}
        params = names.from_torch(state, table)
        assert len(jax.tree.leaves(params)) == len(keys)  # no two keys become the same parameter
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)


def test_every_list_of_published_keys_has_its_network():
    assert set(KEYS) <= {*VAES, *(f"unet_{name}_form" for name in UNETS)}


@pytest.mark.parametrize("name", UNETS)
def test_a_published_unet_has_the_same_parameters(name):
    check_published(unet_shapes(name), UNETS[name], KEYS.get(f"unet_{name}_form"), names.UNET)


@pytest.mark.parametrize("name", VAES)
def test_a_published_vae_has_the_same_parameters(name):
    check_published(vae_shapes(name), VAES[name], KEYS.get(name), names.VAE)
