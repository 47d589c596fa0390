"""The library diffusers computes what this package computes, with folders that either of them wrote."""

import json
import os
import re
import subprocess
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.cli_fixtures import ROOT, configs_fixture, refused_fixture  # noqa: F401
from tests.golden_diffusers.folder import CHANGES, export, tiny_model
from tests.golden_diffusers.make import CONFIGS, PREDICTIONS, SCHEDULER, STEPS, B, random, random_weights
from vaedm_jax import models
from vaedm_jax.api import VAEDM
from vaedm_jax.config import flatten
from vaedm_jax.interop import torch_writer
from vaedm_jax.interop.diffusers_folder import networks_in
from vaedm_jax.main import main
from vaedm_jax.storage.tensors import encode_tensors, read_tensors

GOLDEN = ROOT / "tests" / "golden_diffusers"
TORCH = Path(os.environ.get("TORCH_PYTHON", ROOT / ".venv-torch" / "bin" / "python"))
CHAIN = {"sampler": "ddim", "spacing": "uniform", "steps": STEPS, "start": "noise", "clip_eps": True, "progress": False}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def images_of(planes: np.ndarray) -> np.ndarray:
    """Return [B, H, W, C] of PyTorch's [B, C, H, W]."""
    return planes.transpose(0, 2, 3, 1)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    opened = read_tensors(folder / WEIGHTS)
    return {name: opened.tensor(name) for name in opened.shapes}


def write_unet(folder: Path, name: str, old: bool = False) -> dict[str, np.ndarray]:
    """Write a golden U-Net and its scheduler as diffusers does, or as old versions did; return its parameters."""
    state = random_weights(json.loads(str(golden(name)["shapes"])))
    unet, scheduler = (folder, folder) if old else (folder / "unet", folder / "scheduler")
    for path in (folder, unet, scheduler):
        path.mkdir(exist_ok=True)
    (unet / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **CONFIGS[name]}))
    config = SCHEDULER | ({} if old else {"prediction_type": PREDICTIONS[name]})
    (scheduler / "scheduler_config.json").write_text(json.dumps(config))
    named = state
    if old:
        named = {re.sub(r"\b(to_[qkv]|to_out\.0)\b", lambda m: OLD[m[1]], key): a for key, a in state.items()}
    (unet / WEIGHTS).write_bytes(encode_tensors(named, {"format": "pt"}))
    return state


def imported(folder: Path, *settings: str) -> VAEDM:
    target = folder.with_suffix(".safetensors")
    assert main(["main", "--mode=import", f"--from={folder}", f"--out={target}", *settings]) == 0
    return VAEDM.open(target)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_unet_computes_and_samples_as_in_diffusers(tmp_path, name):
    state, expected = write_unet(tmp_path / "given", name, old=name == "ddpm"), golden(name)
    model = imported(tmp_path / "given")
    ddpm = model.config.ddpm
    assert (ddpm.variant, ddpm.heads, ddpm.T) == ("uncond", {"ddpm": 1, "default": 2}[name], 1000)
    x, x_T = (images_of(random(key, B, 3, 8, 8)) for key in ("x", "x_T"))
    network = jax.jit(partial(models.apply, model.engine.networks.unet))
    output = network(model.params["ddpm"], x, np.float32([7, 803]))
    close(output, images_of(expected["y"]))
    found = model.sample(B, x_T=x_T, **CHAIN).images
    close(found, np.clip(images_of(expected["u"]) / 2 + 0.5, 0, 1))

    export(model, tmp_path / "back")
    back = tensors(tmp_path / "back" / "unet")
    assert back.keys() == state.keys()
    if name == "ddpm":  # sines come first in the embedding of t
        state["time_embedding.linear_1.weight"] = np.roll(state["time_embedding.linear_1.weight"], 16, axis=1)
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize("variant", CHANGES)
def test_the_images_of_an_exported_pipeline_are_those_of_the_model(variant):
    z = random("z", B, 4) if variant != "uncond" else None
    x_T = images_of(random("x_T", B, 3, 16, 16))
    close(tiny_model(variant).sample(B, z=z, x_T=x_T, **CHAIN).images, golden(variant)["images"])


@pytest.mark.skipif(not TORCH.exists(), reason="TORCH_PYTHON names no Python with PyTorch and diffusers")
def test_the_pipelines_in_folders_draw_the_golden_images(tmp_path):
    for variant in CHANGES:
        export(tiny_model(variant), tmp_path / "folders" / variant)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [TORCH, GOLDEN / "make.py", tmp_path / "folders", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


EPS = {"ddpm.prediction": "eps", "ddpm.sigma_r": 0.0, "ddpm.sigma_data": 0.0}


@pytest.mark.parametrize(
    "variant, changes",
    [
        ("form1", {}),
        ("form2", {"ddpm.multipliers": (1, 2), "sample.clip": False}),
        ("uncond", {"ddpm.conventions": "ddpm", "ddpm.patch": 1, "ddpm.attention": (1,)} | EPS),
    ],
)
def test_exported_weights_are_imported_bit_for_bit(tmp_path, variant, changes):
    model = tiny_model(variant, **changes)
    export(model, tmp_path / "folder")
    back = imported(tmp_path / "folder")
    for part in ("ddpm", "vae"):
        jax.tree.map(np.testing.assert_array_equal, back.params[part], model.params[part])
    network = {f"ddpm.{n}" for n in ("variant", "prediction", "sigma_r", "heads", "scale_shift", "attention", "patch")}
    network |= {"ddpm.conventions", "ddpm.dropout", "data.image_size", "sample.clip"}
    before, after = flatten(model.config), flatten(back.config)
    assert {n: after[n] for n in network} == {n: before[n] for n in network}
    np.testing.assert_allclose(back.schedule.beta, model.schedule.beta)
    own = not (tmp_path / "folder" / "pipeline.py").exists()
    assert own == (variant == "uncond")  # then diffusers' own pipeline suffices
    if not own:  # diffusers itself writes the name of the class alone
        index = tmp_path / "folder" / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "VAEDMPipeline"}))
        settings = networks_in(tmp_path / "folder").settings
        assert settings["ddpm.variant"] == variant and settings["ddpm.prediction"] == model.config.ddpm.prediction


def test_the_channels_of_patches_are_ordered_by_colour_as_in_pytorch(tmp_path):
    model = tiny_model("form1")
    export(model, tmp_path / "folder")
    unet, params = tensors(tmp_path / "folder" / "unet"), model.params["ddpm"]
    pixels, colours = 4, 6  # x_t and x_hat; conv_out has 3
    for colour, pixel in np.ndindex(colours, pixels):
        ours = params["conv_in"]["kernel"][:, :, pixel * colours + colour]  # [3, 3, O]
        np.testing.assert_array_equal(unet["conv_in.weight"][:, colour * pixels + pixel], ours.transpose(2, 0, 1))
    for colour, pixel in np.ndindex(3, pixels):
        ours = params["conv_out"]["bias"][pixel * 3 + colour]
        np.testing.assert_array_equal(unet["conv_out.bias"][colour * pixels + pixel], ours)


def test_a_file_of_torch_save_is_read_without_unpickling(tmp_path):
    state = write_unet(tmp_path / "given", "default")
    (tmp_path / "given" / "unet" / WEIGHTS).unlink()
    (tmp_path / "given" / "unet" / "diffusion_pytorch_model.bin").write_bytes(torch_writer.encode(state))
    export(imported(tmp_path / "given"), tmp_path / "back")
    np.testing.assert_array_equal(tensors(tmp_path / "back" / "unet")["conv_in.weight"], state["conv_in.weight"])


@pytest.fixture(name="folder")
def folder_fixture(tmp_path) -> Path:
    write_unet(tmp_path / "folder", "default")
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "change, word",
    [
        ({"_class_name": "UNet2DConditionModel"}, "only 'UNet2DModel'"),
        ({"norm_eps": 1e-6}, "norm_eps"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu'"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"attention_head_dim": 48}, "attention_head_dim = 48"),
        ({"attention_head_dim": 0}, "attention_head_dim = 0"),
        ({"attn_norm_num_groups": 8}, "attn_norm_num_groups = 8"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"block_out_channels": [32]}, "block_out_channels"),
        ({"sample_size": "big"}, "sample_size"),
        ({"sample_size": [8, 16]}, "only square images"),
        ({"sample_size": []}, "only square images"),
    ],
)
def test_an_architecture_that_this_package_lacks_is_refused(folder, refused, change, word):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused("--mode=import --from={tmp}/folder --out={new}.safetensors", "folder/unet/config.json", word)


@pytest.mark.parametrize("name", ["conv_in.weight", "mid_block.attentions.0.to_k.weight", "conv_out.bias"])
def test_a_missing_tensor_is_named(folder, refused, name):
    state = tensors(folder / "unet")
    del state[name]
    (folder / "unet" / WEIGHTS).write_bytes(encode_tensors(state, {}))
    refused("--mode=import --from={tmp}/folder --out={new}.safetensors", "folder/unet", name, "is missing")


@pytest.mark.parametrize("shape", [(0,), (2, 1, 0), (12, 2, 3, 4, 5)])
@pytest.mark.parametrize("name", ["conv_in.weight", "conv_out.weight", "up_blocks.1.resnets.0.norm2.weight"])
def test_a_tensor_of_another_shape_is_refused(folder, refused, name, shape):
    state = tensors(folder / "unet") | {name: np.zeros(shape, np.float32)}
    (folder / "unet" / WEIGHTS).write_bytes(encode_tensors(state, {}))
    refused("--mode=import --from={tmp}/folder --out={new}.safetensors")


def test_other_folders_that_cannot_be_imported_are_refused(folder, refused, tmp_path):
    command = "--mode=import --from={tmp}/folder --out={new}.safetensors"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    for change in (
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "sample"},
        {"num_train_timesteps": -1},
        {"rescale_betas_zero_snr": True},
    ):
        scheduler.write_text(json.dumps(SCHEDULER | change))
        refused(command, "scheduler_config.json", next(iter(change)))
    scheduler.write_text(json.dumps(SCHEDULER))
    refused("--mode=sample --workdir={new} --config.sample.weights={tmp}/folder", "--mode=import --from={tmp}/folder")
    (folder / "unet" / WEIGHTS).write_bytes(b"torn")
    refused(command, WEIGHTS, "not a valid")
    (folder / "unet" / WEIGHTS).unlink()
    refused(command, WEIGHTS, "is not there")
    (folder / "unet" / "config.json").unlink()
    refused(command, "folder/unet/config.json is not there")


def test_models_that_cannot_be_exported_are_refused(tmp_path, refused):
    changes = {
        "condition": {"ddpm.condition": "grayscale"},
        "z_conditioning": {"ddpm.z_conditioning": True},
        "heads": {"ddpm.attention": (1,)},
        "objective": {"ddpm.objective": "consistency"},
    }
    for name, changed in changes.items():
        tiny_model("form1", **changed).save(tmp_path / f"{name}.safetensors")
        refused(f"--mode=export --from={{tmp}}/{name}.safetensors --out={{tmp}}/folder", f"ddpm.{name} = ")
    (tmp_path / "there").mkdir()
    refused("--mode=export --from=avatars --out={tmp}/there", "there is there already")
    refused("--mode=export --from=avatars --out={tmp}/a.folder", "no ending for a folder")
