"""Finding and reading models: run directories, files of weights, priors of z."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vaedm_jax.conditioning.conditions import has_vae
from vaedm_jax.config import BEST_BY
from vaedm_jax.errors import UserError, check_choice
from vaedm_jax.interop.diffusers_folder import is_diffusers
from vaedm_jax.models import build_vae
from vaedm_jax.models.prior import FORMS, expected
from vaedm_jax.runs.hub import fetch, is_on_hub
from vaedm_jax.runs.identity import identity_in, trained_on
from vaedm_jax.runs.rundir import decode_config, encode_config, read_config
from vaedm_jax.storage import Array, Damaged, read_arrays
from vaedm_jax.storage.damage import reading
from vaedm_jax.storage.json_file import parse_json
from vaedm_jax.storage.layout import is_run
from vaedm_jax.storage.paths import PathLike, regular_file, resolve_path, shown
from vaedm_jax.storage.tensors import Tensors, encode_tensors, read_tensors
from vaedm_jax.storage.writing import write_whole
from vaedm_jax.training.loop import restore_average
from vaedm_jax.training.stages import ddpm_stage, parameter_shapes, vae_stage

# Settings that may name files and folders, beside `data.path`. A stored model needs none of them.
PLACES = (
    *("data.archive", "data.tfds_dir", "vae.checkpoint", "vae.init", "ddpm.init", "sample.weights", "sample.prior"),
    *("sample.tables", "eval.runs", "eval.features", "eval.inception", "restore.files"),
)
DTYPES = ("float16", "bfloat16", "float32", "float64")  # in which weights may be stored


class Stored(NamedTuple):
    """The parts of a stored model; see the attributes of `VAEDM`."""

    config: ConfigDict
    params: dict[str, Any]
    images: dict[str, Any] | None


def read_weights(file: PathLike) -> Stored:
    """Return the model in a file of weights; raise UserError unless its arrays are those of its networks."""
    config, opened = weights(file)
    params = unflatten_dict(opened.read(expected_shapes(config, opened.shapes)), sep="/")
    return Stored(config, params, identity_in(opened))


def encode_weights(model: Stored, dtype: Any) -> bytes:
    """Return parameters and configuration as the content of one safetensors file, which is the whole model.

    Raises:
      UserError: a file of this dtype, or with these numbers, could not be read again.
    """
    dtype, flat = stored_dtype(dtype), flatten_dict(jax.device_get(model.params), sep="/")
    with np.errstate(over="ignore"):
        arrays = {n: np.asarray(a, np.float32 if n.startswith("tables/") else dtype) for n, a in flat.items()}
    if lost := [name for name, a in arrays.items() if not np.isfinite(a).all()]:
        raise UserError(f"{lost[0]} has numbers that are not finite in {dtype}; a file of weights can hold none")
    metadata = {"config": encode_config(model.config), "format": "vaedm_jax 1"}
    if model.images:  # without their folder, which is private
        metadata["images"] = json.dumps(model.images | {"folder": ""})
    return encode_tensors(arrays, metadata)


def without_places(config: ConfigDict) -> ConfigDict:
    """Return a configuration that may be published: it names no file or folder of this machine.

    A folder of images is called `training-images` instead, so that `data.path` of a command still takes its place.
    """
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict.fromkeys(PLACES, ""))
    config.data.path = "training-images" if config.data.path else ""
    return config


def stored_dtype(dtype: Any) -> np.dtype:
    """Return a dtype of DTYPES; raise UserError for another."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = dtype
    check_choice("dtype", name, DTYPES)
    return np.dtype(name)


def expected_shapes(config: ConfigDict, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters that a file of weights must have.

    These are all parameters of each network (and the prior, and each learnt table) of which it has any.

    Args:
      config: the configuration in the file.
      found: the shapes in the file, by names such as `vae/mu/kernel`.
    """
    groups, wanted = {name.partition("/")[0] for name in found}, {}
    if "vae" in groups:
        wanted |= {f"vae/{name}": shape for name, shape in parameter_shapes(vae_stage(config)).items()}
    if "ddpm" in groups:
        wanted |= {f"ddpm/{name}": shape for name, shape in parameter_shapes(ddpm_stage(config, {})).items()}
    if "prior" in groups and has_vae(config.ddpm):
        prior = {name.removeprefix("prior/"): shape for name, shape in found.items() if name.startswith("prior/")}
        wanted |= {f"prior/{name}": shape for name, shape in expected(prior, build_vae(config).z_dim).items()}
    tables = {name.removeprefix("tables/"): shape for name, shape in found.items() if name.startswith("tables/")}
    return wanted | {f"tables/{name}": shape for name, shape in table_shapes(tables).items()}


def table_shapes(found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the arrays of learnt tables must have, by names such as `noise_5/a`.

    Args:
      found: the shapes in the file, by the same names. A table has as many rows as its `a`.
    """
    wanted = {}
    for name in {name.rpartition("/")[0] for name in found}:
        N = (found.get(f"{name}/a") or (1,))[0]
        wanted |= {f"{name}/log_sigma": (N - 1,), f"{name}/a": (N,), f"{name}/b": (N, N)}
    return wanted


def read_run(workdir: Path, mesh: Mesh, best: bool = False) -> Stored:
    """Return the model of the newest checkpoints of a run directory; parameters that are not trained are empty.

    Args:
      best: take the DDPM's best checkpoint (`checkpoint.best`); raise UserError if none is kept.
    """
    config, vae = read_config(workdir), {}
    if has_vae(config.ddpm):
        vae = restore_average(vae_stage(config), workdir, mesh)
        if vae is None:
            raise UserError(f"{shown(workdir)} holds no trained VAE yet; train it first (--mode=train)")
    ddpm = restore_average(ddpm_stage(config, vae), workdir, mesh, best)
    if best and ddpm is None:
        raise UserError(
            f"{shown(workdir)} holds no best checkpoint of the DDPM; to keep one, train with "
            f"--config.checkpoint.best={BEST_BY[0]}"
        )
    return Stored(config, {"vae": vae, "ddpm": ddpm or {}}, trained_on(workdir))


def read_prior(file: PathLike, z_dim: int, vae_digest: str) -> dict[str, np.ndarray]:
    """Return the parameters of a prior in a file of mode `prior`; raise UserError if it was fitted to another VAE."""
    file = regular_file(file, "sample.prior", "is not there; --mode=prior makes one")
    arrays = {name: Array(np.float32, shape) for form in FORMS for name, shape in form.items()}
    try:
        prior = read_arrays(file, {"vae": Array(str)} | arrays, arrays, {"Z": z_dim})
        digest = prior.pop("vae")
        shapes = {name: a.shape for name, a in prior.items()}
        if shapes != (right := expected(shapes, z_dim)):
            raise Damaged(file, f"its arrays have the shapes {shapes}; they should be {right}")
    except Damaged as error:
        raise UserError(f"sample.prior: {file} is not a complete file of --mode=prior ({error.why})") from error
    return check_prior(file, prior, digest, vae_digest)


def check_prior(source: PathLike, prior: dict[str, Any], fitted_to: str, vae_digest: str) -> dict[str, Any]:
    """Return the prior of `source`; raise UserError if it is empty, or was fitted to another VAE."""
    if not prior:
        raise UserError(f"sample.prior: {shown(source)} comes without a prior; fit one (--mode=prior)")
    if fitted_to != vae_digest:
        raise UserError(
            f"sample.prior: the prior of {shown(source)} was fitted to another VAE; fit one to this (--mode=prior)"
        )
    return prior


def read_tables(file: PathLike, refiner_digest: str) -> dict[str, dict[str, np.ndarray]]:
    """Return learnt tables, by name; raise UserError if they were fitted to another refiner."""
    file = regular_file(file, "sample.tables", "is not there; --mode=tune makes one")
    try:
        opened = read_tensors(file)
        tables = unflatten_dict(opened.read(table_shapes(opened.shapes)), sep="/")
    except Damaged as error:
        raise UserError(f"sample.tables: {file} is not a complete file of --mode=tune ({error.why})") from error
    if opened.metadata.get("refiner") != refiner_digest:
        raise UserError(f"sample.tables: {file} was fitted to another refiner; fit one to this (--mode=tune)")
    return tables


def write_tables(file: PathLike, tables: Any, refiner_digest: str) -> None:
    """Write learnt tables, by name, as one safetensors file."""
    arrays = {name: np.float32(a) for name, a in flatten_dict(tables, sep="/").items()}
    write_whole(file, encode_tensors(arrays, {"refiner": refiner_digest}))


SHIPPED = Path(__file__).parents[1] / "weights"
NOT_IN_WHEEL = ("avatars-64",)  # as in setup.py


def model_name(name: PathLike) -> str:
    """Return the name of a model or a prior: that of its directory or its file."""
    place = str(name) if is_on_hub(name) else os.path.realpath(resolve_path(name, "model"))
    return shown(Path(place).name).removesuffix(".safetensors").removesuffix(".npz")


def shipped_file(name: str) -> Path:
    """Return the path that weights of the package with this name have."""
    return SHIPPED / f"{name}.safetensors"


def shipped(name: str) -> Path:
    """Return the file of weights of the package with this name; raise UserError without one."""
    path = shipped_file(name)
    if not path.is_file() and name in NOT_IN_WHEEL:
        raise UserError(
            f"weights '{name}': an installed package is without them, since it would be too large; name their file in "
            f"a copy of the repository, vaedm_jax/weights/{name}.safetensors"
        )
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise UserError(f"weights '{name}': no such file; weights in the package: {names}")
    return path


def model_at(name: PathLike) -> Path:
    """Return the run directory or the file of weights with this name: a path, weights of the package, or `hub:...`."""
    if is_on_hub(name):
        return fetch(str(name))
    path = resolve_path(name, "weights")
    if path.is_dir() and is_diffusers(path):
        raise UserError(f"{path} is a folder of diffusers; convert it first: --mode=import --from={path} --out=FILE")
    of_package, found = not set("/.~") & set(str(name)), path.is_file() or is_run(path)
    if of_package and not found and (shipped_file(str(name)).is_file() or not path.exists()):
        return shipped(str(name))
    return path if path.is_dir() else regular_file(path, "weights", "is not there: no such file, nor a run directory")


def weights(file: PathLike) -> tuple[ConfigDict, Tensors]:
    """Open a file of weights and return its configuration and its tensors; raise UserError if it is none."""
    path = regular_file(file, "weights", "is not there: no such file, nor a run directory")
    try:
        opened = read_tensors(path)
        with reading(path, "configuration"):
            stored = parse_json(opened.metadata.get("config", ""))
        return decode_config(path, stored), opened
    except Damaged as error:
        raise UserError(f"{path} is not a file of weights that VAEDM.save wrote ({error.why})") from error


def read_model_config(name: PathLike) -> ConfigDict:
    """Return the configuration of the model that `VAEDM.open` would load, without loading it."""
    path = model_at(name)
    return read_config(path) if path.is_dir() else weights(path)[0]
