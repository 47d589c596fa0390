"""Folders of the library diffusers: a U-Net and its scheduler, and in ours also a VAE and the code of a pipeline."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.diffusion.schedule import MOST_BETA, MOST_STEPS, WHY_STEPS
from vaedm_jax.errors import UserError, check_range, prefix_errors
from vaedm_jax.interop import torch_file
from vaedm_jax.interop.architecture import unet_settings
from vaedm_jax.interop.diffusers_config import CLASS, FORM, NARROW, check_known, parse_config, side_of, unet_config
from vaedm_jax.interop.diffusers_unet import OLD_NAMES, State, from_diffusers, parameters, to_diffusers
from vaedm_jax.interop.published_file import Found, Network, check_numbers
from vaedm_jax.storage.json_file import read_json
from vaedm_jax.storage.paths import regular_file
from vaedm_jax.storage.tensors import encode_tensors, read_tensors

VERSION = "0.42.1"  # of diffusers, with which the folders are tested
CODE = Path(__file__).with_name("diffusers_code")
CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler/scheduler_config.json"
WEIGHTS, OLD_WEIGHTS = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
VAE_CLASS, PIPELINE = "VAEDMVAE", ["pipeline", "VAEDMPipeline"]  # in diffusers_code/
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "residual": "sample"}  # `residual`: the pipeline computes x_0
VARIANCES = {"fixed_small": "fixedsmall", "fixed_large": "fixedlarge"}
OLD_NAME = rf"(?<=\.)({'|'.join(OLD_NAMES)})(?=\.\w+$)"
# The settings of `ddpm` that the pipeline needs.
PIPELINE_SETTINGS = ("variant", "prediction", "sigma_r", "sigma_data", "patch")


def encode_folder(config: Any, betas: tuple[int, float, float], unet: State, vae: State) -> dict[str, bytes]:
    """Return the files of a folder, by their paths in it.

    Args:
      config: the whole configuration of the model.
      betas: the number of steps, the first and the last beta.
      unet, vae: the parameters by the published names; `vae` is empty without a VAE.

    Raises:
      UserError: diffusers has no such U-Net or schedule.
    """
    ddpm = config.ddpm
    shown = FORMULATIONS[ddpm.variant].shown
    for name, needed, state in (("U-Net", True, unet), ("VAE", shown, vae)):
        if needed and not state:
            raise UserError(f"it has no trained {name}, which a folder of diffusers needs; train it first")
    architecture, settings = unet_config(ddpm, config.data.image_size)
    files = encode_model("unet", settings, to_diffusers(unet, architecture))
    index = {"_class_name": "DDIMPipeline", "unet": ["diffusers", CLASS], "scheduler": ["diffusers", "DDIMScheduler"]}
    if settings["_class_name"] != CLASS:
        index["unet"] = ["unet", settings["_class_name"]]
        files["unet/unet.py"] = code("unet")
    if shown:
        strings = {name: config.vae[name] for name in ("enc_block", "dec_block", "channels")}
        files |= encode_model("vae", {"_class_name": VAE_CLASS, **strings}, vae) | {"vae/vae.py": code("vae")}
    if shown or ddpm.prediction == "residual" or ddpm.patch > 1:  # DDIMPipeline has nothing of these
        index |= {"_class_name": PIPELINE, "vae": ["vae", VAE_CLASS] if shown else [None, None]}
        index |= {name: ddpm[name] for name in PIPELINE_SETTINGS}
        files["pipeline.py"] = code("pipeline")
    return files | {INDEX: encode_config(index), SCHEDULER: encode_config(scheduler_config(config, *betas))}


def scheduler_config(config: Any, T: int, beta_1: float, beta_T: float) -> dict[str, Any]:
    """Return the configuration of a `DDIMScheduler` with the schedule and the prediction of a model."""
    check_range("the last beta", beta_T, 0.0, MOST_BETA, "diffusers does not clip betas, as training did")
    return {
        "_class_name": "DDIMScheduler", "num_train_timesteps": T, "beta_start": beta_1, "beta_end": beta_T,
        "beta_schedule": "linear", "prediction_type": PREDICTIONS[config.ddpm.prediction],
        "clip_sample": config.sample.clip, "set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading",
    }  # fmt: skip


def encode_model(name: str, config: dict[str, Any], state: State) -> dict[str, bytes]:
    """Return the files of a network, by their paths in the folder of the pipeline."""
    weights = encode_tensors(state, {"format": "pt"})
    return {f"{name}/{CONFIG}": encode_config(config), f"{name}/{WEIGHTS}": weights}


def encode_config(config: dict[str, Any]) -> bytes:
    """Return a configuration as the content of a JSON file."""
    return (json.dumps(config | {"_diffusers_version": VERSION}, indent=2, sort_keys=True) + "\n").encode()


def code(name: str) -> bytes:
    """Return a file of the code that a folder brings with it."""
    return (CODE / f"{name}.py").read_bytes()


def is_diffusers(folder: Path) -> bool:
    """Return whether a folder looks like one that diffusers wrote."""
    return any((folder / name).is_file() for name in (INDEX, WEIGHTS, OLD_WEIGHTS, f"unet/{CONFIG}"))


def networks_in(folder: Path) -> Found:
    """Return the content of a folder: a `UNet2DModel`, alone or in `unet/`, its scheduler, and a VAE of this package.

    Raises:
      UserError: a file is missing or invalid, or this package has no such network.
    """
    pipeline = read_pipeline(folder)
    scheduler, betas = read_scheduler(folder, known="ddpm.prediction" in pipeline)
    unet, settings, left_out = read_unet(folder / "unet" if (folder / "unet").is_dir() else folder)
    vae, hyper = read_vae(folder / "vae") if (folder / "vae").is_dir() else (None, {})
    return Found(unet, vae, betas, hyper, left_out, scheduler | pipeline | settings)


def read_unet(folder: Path) -> tuple[Network, dict[str, Any], dict[str, int]]:
    """Return a U-Net, the settings that its configuration gives, and what is left out."""
    path = regular_file(folder / CONFIG, "--from", "is not there; a folder of diffusers has it, alone or in unet/")
    with prefix_errors(f"{path}: "):
        check_known("_class_name", read_json(path, {"_class_name": str})["_class_name"], (CLASS, NARROW))
    config = read_json(path, FORM)
    with prefix_errors(f"{path}: "):
        architecture, settings = parse_config(config)
        side = side_of(config)
    state = read_state(folder)
    state = {re.sub(OLD_NAME, lambda m: OLD_NAMES[m[0]], name): array for name, array in state.items()}
    with prefix_errors(f"{folder}: "):
        published = from_diffusers(state, architecture, config.get("flip_sin_to_cos", True))
        patch = unet_settings({name: a.shape for name, a in published.items()})[0]["patch"]
    left = state.keys() - {name for theirs, _ in parameters(architecture) for name in theirs}
    settings = {f"ddpm.{name}": value for name, value in settings.items()}
    settings["data.image_size"] = patch * side
    return Network("", published), settings, dict(Counter(name.partition(".")[0] for name in left))


def read_state(folder: Path) -> State:
    """Return the tensors in the file of weights of a folder. A file of torch.save is read without unpickling."""
    path = folder / OLD_WEIGHTS
    if (folder / WEIGHTS).exists() or not path.exists():
        opened = read_tensors(regular_file(folder / WEIGHTS, "--from"))
        return {name: opened.tensor(name) for name in opened.shapes}
    state = torch_file.read(path)
    state = {k: a for k, a in state.items() if isinstance(a, np.ndarray)} if isinstance(state, dict) else {}
    for name, array in state.items():
        check_numbers(path, name, array)
    return state


def read_vae(folder: Path) -> tuple[Network, dict[str, str]]:
    """Return a VAE of this package, and its block strings by the names of the hyper-parameters in published files."""
    config = read_json(folder / CONFIG, {"_class_name": str})
    with prefix_errors(f"{folder / CONFIG}: "):
        check_known("_class_name", config["_class_name"], (VAE_CLASS,))
    hyper = {f"{end}_block_str": config.get(f"{end}_block") for end in ("enc", "dec")}
    hyper |= {f"{end}_channel_str": config.get("channels") for end in ("enc", "dec")}
    return Network("", read_state(folder)), hyper


def read_pipeline(folder: Path) -> dict[str, Any]:
    """Return the settings that the index of a folder gives, if its pipeline is that of this package."""
    path = folder / INDEX
    # diffusers itself writes the name of the class alone.
    if not path.exists() or read_json(path, dict).get("_class_name") not in (PIPELINE, PIPELINE[1]):
        return {}
    index = read_json(path, {"variant": str, "prediction": str, "sigma_r": float, "sigma_data": float})
    with prefix_errors(f"{path}: "):
        check_known("variant", index["variant"], FORMULATIONS)
        check_known("prediction", index["prediction"], PREDICTIONS)
    settings = {f"ddpm.{name}": index[name] for name in ("variant", "prediction")}
    return settings | {f"ddpm.{name}": float(index[name]) for name in ("sigma_r", "sigma_data")}


def read_scheduler(folder: Path, known: bool) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return the settings that the scheduler of a folder gives, and the betas [T]; {} and None without a scheduler.

    Args:
      known: whether the pipeline gives what the network predicts.
    """
    path = next((path for path in (folder / SCHEDULER, folder / Path(SCHEDULER).name) if path.exists()), None)
    if path is None:
        return {}, None
    form = {"num_train_timesteps": int, "beta_start": float, "beta_end": float, "beta_schedule": str}
    form |= {"prediction_type?": str, "variance_type?": str, "clip_sample?": bool}
    config = {"trained_betas": None, "prediction_type": "epsilon"} | read_json(path, form)
    predictions = {theirs: ours for ours, theirs in PREDICTIONS.items() if ours != "residual" or known}
    with prefix_errors(f"{path}: "):
        check_known("beta_schedule", config["beta_schedule"], ("linear",))
        check_known("trained_betas", config["trained_betas"], (None,))
        check_known("rescale_betas_zero_snr", config.get("rescale_betas_zero_snr", False), (False,))
        check_known("prediction_type", config["prediction_type"], predictions)
        check_range("num_train_timesteps", config["num_train_timesteps"], 1, MOST_STEPS, WHY_STEPS)
    settings = {"ddpm.prediction": predictions[config["prediction_type"]]}
    if config.get("variance_type") in VARIANCES:
        settings["sample.variance"] = VARIANCES[config["variance_type"]]
    if "clip_sample" in config:
        settings["sample.clip"] = config["clip_sample"]
    return settings, np.linspace(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
