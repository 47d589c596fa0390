"""Published PyTorch files are imported as weights that compute the published outputs, and exported bit for bit."""

import json
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import apply
from vaedm_jax.api import VAEDM
from vaedm_jax.config import base_config
from vaedm_jax.errors import UserError
from vaedm_jax.interop import names, pickles, torch_file, torch_writer
from vaedm_jax.interop.architecture import unet_settings
from vaedm_jax.main import main
from vaedm_jax.modes import train

FOLDER = Path(__file__).parent / "golden_arrays"
KEYS = json.loads((FOLDER / "published_checkpoint_keys.json").read_text())
ARCHITECTURES = json.loads((FOLDER / "published_architectures.json").read_text())


def golden(name: str) -> tuple[dict, dict]:
    """Return the weights of a golden network by their published names, and the other arrays."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    weights = {key[2:]: a.astype(np.float32) for key, a in arrays.items() if key.startswith("w/")}
    return weights, {key: a for key, a in arrays.items() if not key.startswith("w/")}


def published(unet: str = "unet_attn8", vae: str = "vae") -> dict[str, np.ndarray]:
    """Return the state dict of a Lightning checkpoint of golden networks. Only the averaged weights are right."""
    state = {}
    if unet:
        for name, array in golden(unet)[0].items():
            state[f"online_network.decoder.{name}"] = array + 1
            state[f"target_network.decoder.{name}"] = array
        state["target_network.betas"] = np.linspace(2e-4, 0.01, 500, dtype=np.float32)
    if vae:
        state |= {f"vae.{name}": array for name, array in golden(vae)[0].items()}
    return state


def write(path: Path, state: dict[str, np.ndarray]) -> Path:
    path.write_bytes(torch_writer.encode(state))
    return path


@pytest.fixture(name="configuration")
def configuration_fixture(tmp_path) -> str:
    """Write a configuration with the golden VAE's architecture, and return the flag that selects it."""
    c = json.loads(str(golden("vae")[1]["config"]))
    lines = [f"    c.vae.{k}_block, c.vae.channels = {c[k + '_block']!r}, {c['enc_channel']!r}" for k in ("enc", "dec")]
    text = ["from vaedm_jax.config import base_config", "def get_config():", "    c = base_config()", *lines]
    (tmp_path / "golden.py").write_text("\n".join([*text, "    return c.lock()"]))
    return f"--config={tmp_path / 'golden.py'}"


def imported(source: Path, *settings: str) -> VAEDM:
    target = source.with_name("weights.safetensors")
    assert main(["main", "--mode=import", f"--from={source}", f"--out={target}", *settings]) == 0
    return VAEDM.open(target)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("unet", ["unet_attn8", "unet_uncond", "unet_zcond"])
def test_imported_weights_compute_the_published_outputs(tmp_path, configuration, unet):
    arrays, c = golden(unet)[1], json.loads(str(golden(unet)[1]["config"]))
    state = published(unet)
    if unet == "unet_zcond":  # its z has another size than the golden VAE's
        state["target_network.decoder.proj.0.weight"] = np.zeros((128, 24), np.float32)
    model = imported(write(tmp_path / "a.ckpt", state), configuration, f"--config.ddpm.heads={c['num_heads']}")
    ddpm = model.config.ddpm
    assert (ddpm.T, ddpm.beta_1, ddpm.beta_T) == (500, 2e-4, 0.01)
    np.testing.assert_allclose(model.schedule.beta, state["target_network.betas"], rtol=1e-5)
    assert ddpm.variant == ("uncond" if unet == "unet_uncond" else "form1")
    assert (ddpm.channels, ddpm.blocks, ddpm.multipliers) == (c["model_channels"], 1, tuple(c["channel_mult"]))
    assert (ddpm.attention, ddpm.scale_shift) == ((2,), c.get("use_scale_shift_norm", False))
    if unet != "unet_zcond":
        inputs = [arrays.get(name) for name in ("x", "t", "low_res")]
        with jax.default_matmul_precision("highest"):
            close(apply(model.engine.networks.unet, model.params["ddpm"], *inputs), arrays["y"])
    if unet == "unet_attn8":
        vae = golden("vae")[1]
        with jax.default_matmul_precision("highest"):
            close(model.decode(vae["z"]), vae["decoded"])


@pytest.mark.parametrize("name", KEYS)
def test_a_published_network_comes_back_bit_for_bit(name):
    table, rng = names.UNET if name.startswith("unet") else names.VAE, np.random.default_rng(0)
    state = {key: rng.random(shape, np.float32) for key, shape in KEYS[name].items()}
    back = names.to_torch(names.from_torch(state, table), table)
    assert back.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)


def test_the_architecture_of_a_published_unet_follows_from_its_names_and_shapes():
    for name in ("cifar10", "celebamaskhq128", "celebahq256"):
        settings, shown = unet_settings({k: tuple(s) for k, s in KEYS[f"unet_{name}_form"].items()})
        theirs = ARCHITECTURES["unet"][name]
        assert shown and not settings["z_conditioning"] and not settings["scale_shift"]
        assert [list(settings["multipliers"]), settings["blocks"]] == [theirs["multipliers"], theirs["blocks"]]
        levels = [2**level for level in range(len(theirs["multipliers"]))]
        assert settings["attention"] == tuple(f for f in levels if f in theirs["attention"])


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (128,), ()])
def test_a_first_layer_of_another_shape_is_refused(shape):
    shapes = {k: tuple(s) for k, s in KEYS["unet_cifar10_form"].items()}
    with pytest.raises(UserError, match="not of the published kind"):
        unet_settings(shapes | {"input_blocks.0.0.weight": shape})


def test_a_published_vae_is_recognised_by_its_names_and_shapes(tmp_path):
    state = {f"vae.{key}": np.zeros(shape, np.float32) for key, shape in KEYS["vae_celebamaskhq128"].items()}
    model = imported(write(tmp_path / "a.ckpt", state))
    theirs = ARCHITECTURES["vae_celebamaskhq128"]
    assert [model.config.vae[k] for k in ("enc_block", "dec_block", "channels")] == [
        theirs[k] for k in ("enc_block", "dec_block", "channels")
    ]
    assert model.config.data.image_size == 128 and not model.params["ddpm"]


def test_the_hyper_parameters_of_a_file_give_the_architecture_of_its_vae(tmp_path, monkeypatch):
    c = json.loads(str(golden("vae")[1]["config"]))
    hyper = {f"{k}_block_str": c[f"{k}_block"] for k in ("enc", "dec")}
    hyper |= {f"{k}_channel_str": c[f"{k}_channel"] for k in ("enc", "dec")}
    content = {"state_dict": golden("vae")[0], "hyper_parameters": hyper, "callbacks": {pickles.Placeholder(): 1}}
    monkeypatch.setattr(torch_file, "read", lambda path: content)
    (tmp_path / "vae.ckpt").touch()
    model = imported(tmp_path / "vae.ckpt")
    assert model.config.vae.enc_block == c["enc_block"] and model.engine.networks.vae.z_dim == 24


def test_code_in_a_file_is_not_run_and_is_reported(tmp_path, configuration, capsys):
    harm = tmp_path / "harm"
    with zipfile.ZipFile(write(tmp_path / "whole.ckpt", published())) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    state = entries["archive/data.pkl"][2:-1]
    call = b"cposix\nsystem\n(" + pickle.dumps(f"touch {harm}", 2)[2:-1] + b"tR"
    names_of = [pickle.dumps(name, 2)[2:-1] for name in ("state_dict", "callbacks")]
    entries["archive/data.pkl"] = b"\x80\x02}(" + names_of[0] + state + names_of[1] + call + b"u."
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    assert imported(tmp_path / "a.ckpt", configuration, "--config.ddpm.heads=1").params["ddpm"]
    assert not harm.exists() and "callbacks (1)" in capsys.readouterr().out


def test_imported_weights_are_exported_bit_for_bit(tmp_path, configuration):
    state = published()
    model = imported(write(tmp_path / "a.ckpt", state), configuration, "--config.ddpm.heads=1")
    back = tmp_path / "back.pt"
    assert main(["main", "--mode=export", f"--from={tmp_path / 'weights.safetensors'}", f"--out={back}"]) == 0
    tensors = torch_file.read(back)
    assert tensors.keys() == {key for key in state if key.startswith(("target_network.decoder.", "vae."))}
    for key, array in tensors.items():
        np.testing.assert_array_equal(array, state[key])
    assert model.engine.fingerprint  # the weights can be hashed, which samples and stores need


def test_training_may_start_from_imported_weights(tmp_path, configuration):
    model = imported(write(tmp_path / "a.ckpt", published()), configuration, "--config.ddpm.heads=1")
    config = model.config.copy_and_resolve_references().unlock()
    config.vae.checkpoint = config.ddpm.init = str(tmp_path / "weights.safetensors")
    for name in ("vae", "ddpm"):
        jax.tree.map(
            np.testing.assert_array_equal, train.given_params(name, config, tmp_path / "new"), model.params[name]
        )


def test_files_that_cannot_be_imported_or_exported_are_refused(tmp_path, refused, configuration):
    whole = write(tmp_path / "whole.ckpt", published())
    (tmp_path / "torn.ckpt").write_bytes(whole.read_bytes()[:-5000])
    write(tmp_path / "alone.ckpt", published(vae=""))
    write(tmp_path / "vae.ckpt", published(unet=""))
    write(tmp_path / "other.ckpt", {"fc.weight": np.zeros((3, 3), np.float32)})
    spoilt = published()
    del spoilt["target_network.decoder.out.2.bias"]
    write(tmp_path / "spoilt.ckpt", spoilt)
    begin, out = f"--mode=import --out={tmp_path / 'out.safetensors'} --from={tmp_path}", "out.safetensors"
    refused(f"{begin}/absent.ckpt", "absent.ckpt is not there")
    refused(f"{begin}/torn.ckpt", "torn.ckpt: cannot be read as a file of torch.save", "torn")
    (tmp_path / "notes.txt").write_text("PyTorch's weights are elsewhere.")
    refused(f"{begin}/notes.txt", "notes.txt: cannot be read as a file of torch.save", "header")
    refused(begin, "config.json is not there")
    refused(f"{begin}/other.ckpt", "neither a U-Net", "fc.weight")
    refused(f"{begin}/alone.ckpt {configuration}", "there is no VAE", "alone.ckpt,VAE.ckpt")
    refused(f"{begin}/vae.ckpt", "no known architecture", "--config=FILE")
    refused(f"{begin}/spoilt.ckpt {configuration}", "ddpm: conv_out/bias is missing in the file")
    refused(f"{begin}/whole.ckpt {configuration} --config.ddpm.variant=uncond", "give form1 or form2")
    refused(f"{begin}/whole.ckpt --out={tmp_path / 'a.pt'}", "must end in .safetensors")
    refused(f"{begin}/whole.ckpt --out={whole}", "whole.ckpt is there already")
    refused(f"--mode=import --from={whole}", "--out=FILE is missing")
    refused(f"--mode=export --from={tmp_path / 'none'} --out={tmp_path / 'b.pt'}", "no such file")
    refused(
        f"--mode=export --from=avatars --out={tmp_path / 'b.pt'}",
        "avatars: ddpm.patch = 2",
        "a folder for diffusers takes it",
    )
    refused(f"--mode=export --from=avatars --out={tmp_path / 'b.safetensors'}", "must end in .pt or .pth or .ckpt")
    assert not (tmp_path / out).exists() and not (tmp_path / "b.pt").exists()


def test_two_files_make_one_model(tmp_path, configuration, capsys):
    alone, vae = write(tmp_path / "ddpm.ckpt", published(vae="")), write(tmp_path / "vae.ckpt", published(unet=""))
    target = tmp_path / "both.safetensors"
    command = ["main", "--mode=import", configuration, "--config.ddpm.heads=1"]
    assert main([*command, f"--from={alone},{vae}", f"--out={target}"]) == 0
    assert VAEDM.open(target).params["vae"] and "VAE (" not in capsys.readouterr().out
    whole = write(tmp_path / "whole.ckpt", published())
    assert main([*command, f"--from={whole},{vae}", f"--out={tmp_path / 'first.safetensors'}"]) == 0
    assert f"left out of {vae}: its VAE ({len(published(unet=''))})" in capsys.readouterr().out


def test_the_default_vae_is_the_published_one():
    theirs = ARCHITECTURES["vae_cifar10"]
    assert [base_config().vae[k] for k in ("enc_block", "channels")] == [theirs[k] for k in ("enc_block", "channels")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_error_for_numbers_that_are_not_finite_names_the_tensor(tmp_path, refused, value):
    for name in (
        "vae.enc.block_mod.0.c1.bias",
        "target_network.decoder.middle_block.1.proj_out.bias",
        "target_network.betas",
    ):
        state = published()
        state[name] = np.full_like(state[name], value)
        write(tmp_path / "bad.ckpt", state)
        words = "bad.ckpt", name.removeprefix("target_network.b"), "not finite"
        refused("--mode=import --from={tmp}/bad.ckpt --out={new}.safetensors", *words)
