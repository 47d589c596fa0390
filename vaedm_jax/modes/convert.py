"""Modes `import` and `export`: conversion of weights from and to PyTorch, as published, and the library diffusers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.conditions import has_vae
from vaedm_jax.config import base_config, flatten
from vaedm_jax.config.checks import check
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.diffusion.schedule import compute_betas
from vaedm_jax.errors import UserError, prefix_errors
from vaedm_jax.interop import diffusers_folder, names, published_file, torch_writer
from vaedm_jax.interop.architecture import unet_settings
from vaedm_jax.interop.published_file import Found, Network
from vaedm_jax.models.blocks import parse_blocks
from vaedm_jax.models.published import VAES
from vaedm_jax.storage.paths import regular_file, resolve_path
from vaedm_jax.storage.writing import write_folder, write_whole
from vaedm_jax.training.stages import Stage, ddpm_stage, parameter_shapes, vae_stage

# The hyper-parameters that give the architecture of a VAE.
HYPER = ("enc_block_str", "dec_block_str", "enc_channel_str", "dec_channel_str")
# What the section `ddpm` of a model must say, so that it can be exported as a file or as a folder.
LIMITS = {
    "file": (
        "the published U-Net",
        {"patch": 1, "prediction": "eps", "cond_noise": 0, "conventions": "published"},
    ),
    "folder": (
        "the pipeline for diffusers",
        {"z_conditioning": False, "cond_noise": 0, "condition": "vae", "objective": "diffusion"},
    ),
}


def import_files(config: ConfigDict, source: str, out: str) -> None:
    """Write the networks in some files or folders (separated by commas) as one file of weights with a configuration."""
    sources, target = [name.strip() for name in source.split(",")], new_path(out, ".safetensors")
    found = [networks_in(source) for source in sources]
    unet, known = next(((f.unet, f.settings) for f in found if f.unet), (None, {}))
    vae, hyper = next(((f.vae, f.hyper) for f in found if f.vae), (None, {}))
    betas = next((f.betas for f in found if f.betas is not None), None)
    config, notes = config.copy_and_resolve_references().unlock(), []
    if vae:
        notes.append(set_vae(config, vae, hyper))
    if unet:
        notes += [set_unet(config, unet, known), set_schedule(config, betas)]
        if has_vae(config.ddpm) and not vae:
            raise UserError(
                f"{sources[0]}: its U-Net is shown x_hat or z, but there is no VAE; give --from={sources[0]},VAE.ckpt "
                "or the folder of the whole pipeline, or --config.ddpm.condition=NAME if it is shown a condition"
            )
        if not (vae or "data.image_size" in known):
            size = config.data.image_size
            notes.append(
                f"not in the file: the image size, {size} pixels a side; set --config.data.image_size if it differs"
            )
    check(config.lock(), to_train=False)
    vae_params = fitting_params(vae, vae_stage(config), names.VAE) if vae else {}
    ddpm_params = fitting_params(unet, ddpm_stage(config, {}), names.UNET) if unet else {}
    VAEDM(config, vae_params, ddpm_params).save(target)
    print(*notes, sep="\n")
    for source, f in zip(sources, found, strict=True):
        others = {"its U-Net": f.unet, "its VAE": f.vae}
        others = {name: len(of.state) for name, of in others.items() if of and of is not unet and of is not vae}
        left = ", ".join(f"{name} ({n})" for name, n in (others | f.left_out).items())
        print(f"left out of {source}: {left or 'nothing'}")
    print(f"wrote {target}; use it in any mode with --config.sample.weights={target}", flush=True)


def networks_in(source: str) -> Found:
    """Return the networks in a file of torch.save, or in a folder of diffusers."""
    path = resolve_path(source, "--from")
    if path.is_dir():
        return diffusers_folder.networks_in(path)
    missing = "is not there; --from takes files that torch.save wrote, and folders of diffusers"
    return published_file.networks_in(regular_file(path, "--from", missing))


def export_model(config: ConfigDict, source: str, out: str) -> None:
    """Write a model as a state dict for torch.load, with the names in the published files, or as a diffusers folder."""
    target = new_path(out, ".pt", ".pth", ".ckpt", "")
    model = VAEDM.open(source, config.sample.best)
    ddpm, params = model.config.ddpm, jax.device_get(model.params)
    with prefix_errors(f"{source}: "):
        check_limits(ddpm, "file" if target.suffix else "folder")
        unet, vae = (names.to_torch(params[part], table) for part, table in (("ddpm", names.UNET), ("vae", names.VAE)))
        if target.suffix:
            state = {f"target_network.decoder.{name}": array for name, array in unet.items()}
            write_whole(target, torch_writer.encode(state | {f"vae.{name}": array for name, array in vae.items()}))
        else:
            write_folder(target, diffusers_folder.encode_folder(model.config, compute_betas(ddpm), unet, vae))
            if params["prior"]:
                print("left out: the prior of z; the pipeline draws z from N(0, I)")
    arrays = [*unet.values(), *vae.values()]
    print(f"wrote {target}: {len(arrays)} tensors, {sum(a.size for a in arrays):,} numbers", flush=True)


def check_limits(ddpm: ConfigDict, form: str) -> None:
    """Raise UserError for the first setting of a section `ddpm` that a form of LIMITS does not support."""
    reader, limits = LIMITS[form]
    unsupported = [name for name, value in limits.items() if ddpm[name] != value]
    if unsupported:
        name = unsupported[0]
        fits = form == "file" and all(ddpm[other] == value for other, value in LIMITS["folder"][1].items())
        instead = "; a folder for diffusers takes it (--out=NAME without an ending)" if fits else ""
        raise UserError(
            f"ddpm.{name} = {ddpm[name]!r}, but {reader} supports only {limits[name]!r}, so this model cannot be "
            f"exported as a {form}{instead}"
        )


def new_path(out: str, *suffixes: str) -> Path:
    """Return the path of a new file or folder; UserError if it exists, or its name has none of the suffixes."""
    target = resolve_path(out, "--out")
    if os.path.lexists(target):
        raise UserError(f"--out={target} is there already; give another name, or remove it")
    if target.suffix not in suffixes:
        folder = ", or have no ending for a folder of diffusers" if "" in suffixes else ""
        raise UserError(f"--out={target}: its name must end in {' or '.join(filter(None, suffixes))}{folder}")
    return target


def set_unet(config: ConfigDict, unet: Network, known: Mapping[str, Any]) -> str:
    """Set the architecture of a U-Net in the configuration; return what is set, and what the file does not say.

    Args:
      known: the settings that the file gives.
    """
    settings, shown = unet_settings({name: a.shape for name, a in unet.state.items()})
    ddpm = config.ddpm
    known = known if shown else {**known, "ddpm.variant": "uncond"}
    ddpm.update(settings)
    config.update_from_flattened_dict(known)
    if shown and not FORMULATIONS[ddpm.variant].shown:
        raise UserError("--config.ddpm.variant=uncond: this U-Net is shown x_hat; give form1 or form2")
    values = flatten(config)
    given = "".join(f", {name} = {values[name]}" for name in known)
    asked = [name for name in ("ddpm.variant", "ddpm.heads", "sample.variance") if name not in known]
    taken = ", ".join(f"{name} = {values[name]}" for name in asked)
    flags = ", ".join(f"--config.{name}" for name in asked)
    told = f"\nnot in the file, and taken from the configuration: {taken}; set {flags} if they differ" if asked else ""
    return f"U-Net of {unet.prefix or 'the file'}: {settings}{given}{told}"


def set_schedule(config: ConfigDict, betas: np.ndarray | None) -> str:
    """Set the schedule of the file in the configuration, if it has one; return a description of the schedule."""
    ddpm = config.ddpm
    if betas is not None:
        ddpm.scale_betas = False
        ddpm.T, ddpm.beta_1, ddpm.beta_T = len(betas), float(f"{betas[0]:.6g}"), float(f"{betas[-1]:.6g}")
        if not np.allclose(betas, np.linspace(ddpm.beta_1, ddpm.beta_T, ddpm.T), rtol=1e-5):
            raise UserError("the schedule in the file is not linear in beta; only linear schedules are supported")
    where = "not in the file, taken from the configuration" if betas is None else "from the file"
    T, first, last = compute_betas(ddpm)
    return f"schedule {where}: {T} steps, beta from {first:g} to {last:g}"


def set_vae(config: ConfigDict, vae: Network, hyper: dict[str, Any]) -> str:
    """Find an architecture that fits a VAE, set it in the configuration, and return a description.

    The candidates, in this order: the file's hyper-parameters, the published VAEs, and the configuration itself.
    """
    own = [hyper[name] for name in HYPER if isinstance(hyper.get(name), str)]
    candidates = {}
    if len(own) == len(HYPER):
        if own[2] != own[3]:
            raise UserError(
                "the VAE's encoder and decoder have different widths; only the same widths in both are supported"
            )
        candidates["the file's hyper-parameters"] = own[:3], {}
    candidates |= {f"the published VAE '{name}'": (p.blocks, p.data) for name, p in VAES.items()}
    candidates["the configuration"] = [config.vae[name] for name in ("enc_block", "dec_block", "channels")], {}
    for source, (blocks, data) in candidates.items():
        config.vae.enc_block, config.vae.dec_block, config.vae.channels = blocks
        with prefix_errors(f"{source}: "):
            config.data.image_size = parse_blocks(blocks[0])[0].size
        try:
            fitting_params(vae, vae_stage(config), names.VAE)
        except UserError as error:
            reason = error
        else:
            usual = base_config().data  # the user's own settings stay
            config.data.update({name: value for name, value in data.items() if config.data[name] == usual[name]})
            return (
                f"VAE of {vae.prefix or 'the file'}: architecture of {source}, {config.data.image_size} pixels a side"
            )
    raise UserError(
        f"the VAE has no known architecture ({reason}); give a configuration with its block strings: --config=FILE"
    ) from reason


def fitting_params(found: Network, stage: Stage, table: names.Table) -> Any:
    """Return the parameters of a stage's network; raise UserError for the first that does not fit."""
    params = names.from_torch(found.state, table)
    wanted = parameter_shapes(stage)
    given = {path: a.shape for path, a in flatten_dict(params, sep="/").items()}
    for path in {**wanted, **given}:
        here, there = (shapes.get(path, "missing") for shapes in (wanted, given))
        if here != there:
            raise UserError(f"{stage.name}: {path} is {there} in the file, but {here} in the configuration")
    return params
