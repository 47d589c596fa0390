"""Mode `train`: train stage 1, then stage 2; each continues from its newest checkpoint."""

import hashlib
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.conditioning.conditions import has_vae, parse_condition
from vaedm_jax.config import flatten, picture_chain
from vaedm_jax.config.checks import check
from vaedm_jax.config.settings import SECTIONS
from vaedm_jax.data import Dataset, load, preview, some
from vaedm_jax.diffusion.prediction import TARGETS
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.errors import UserError, brief
from vaedm_jax.evaluation.features import width
from vaedm_jax.evaluation.judge import checked_spaces, judges, side, too_few
from vaedm_jax.models import COMPUTATION, VAE, UNet, build_unet, build_vae, network_settings
from vaedm_jax.modes.shared.advice import advise
from vaedm_jax.modes.shared.drawing import cycled
from vaedm_jax.reporting import grid, read_metrics, renew_report, sample_rows, save_png, to_uint8
from vaedm_jax.runs import rundir
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import check_memory, make_mesh
from vaedm_jax.storage.paths import shown
from vaedm_jax.training.checkpoints import Checkpoints, check_place
from vaedm_jax.training.loop import (
    Begun,
    abstract_state,
    begin,
    fit,
    new_state,
    newest_step,
    restore_average,
    total_steps,
)
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.state import TrainState
from vaedm_jax.training.step import held_out_metrics
from vaedm_jax.training.stop import Poll

MEASURED_BY = 512  # training images that sigma_r and sigma_data are measured on
STAGES = ("vae", "ddpm", "all")
# Settings that a network must share with the one that it begins from.
ARCHITECTURE = {
    "vae": (
        *(f"vae.{name}" for name in network_settings(VAE, SECTIONS["vae"]) if name not in COMPUTATION),
        "data.image_size",
    ),
    "ddpm": (
        *(f"ddpm.{name}" for name in network_settings(UNet, SECTIONS["ddpm"]) if name not in COMPUTATION),
        *("ddpm.z_conditioning", "ddpm.prediction", "ddpm.cond_noise"),
    ),
}


def train(config: ConfigDict, workdir: Path, stage: str = "all") -> None:
    """Train the stages that `stage` names; without a VAE there is only the second."""
    config = config.copy_and_resolve_references()
    rundir.keep_measured(config, workdir)
    check(config)
    mesh = make_mesh(config.mesh.model)
    vae = has_vae(config.ddpm)
    if stage == "vae" and not vae:
        why, use = ("variant", "form1 or form2") if config.ddpm.variant == "uncond" else ("condition", "'vae'")
        raise UserError(f"--stage=vae: ddpm.{why} = {config.ddpm[why]!r} has no VAE; use {use}, or --stage=ddpm")
    build_unet(config)  # raises errors before the data is read
    if vae:
        build_vae(config)
    note_attention(config.ddpm)
    names = ("vae", "ddpm") if vae else ("ddpm",)
    for name in names:
        check_place(workdir / name / "checkpoints")
        check_place(workdir / name / "best")
    given = {name: given_params(name, config, workdir) for name in names}
    data = load(config.data)
    for name in names:
        if len(data.train) < config[name].batch_size:
            raise UserError(
                f"{data.name} has {len(data.train)} training images, fewer than {name}.batch_size = "
                f"{config[name].batch_size}; give --config.{name}.batch_size={len(data.train)} or less"
            )
    if vae and not config.vae.checkpoint:
        check_order(config, workdir, stage, total_steps(config.vae, len(data.train)))
    check_stages(config, workdir, mesh, data, given, stage)
    images = data.identity
    check_processes(config, workdir, f"{data.name} { {**images, 'folder': ''} }")
    with nullcontext() if jax.process_index() else rundir.lock(workdir):
        left = rundir.claim(workdir, config, images, lambda: read_checkpoints(config, workdir, mesh, given, stage))
        print(f"data: {data.name}, {len(data.train):,} training images, {len(data.test):,} held out", flush=True)
        train_stages(config, workdir, mesh, data, given, stage, left)
    print(f"the report is in {workdir / 'report.html'}", flush=True)


def note_attention(ddpm: ConfigDict) -> None:
    """Print a note on entries of `ddpm.attention` that are the factor of no level, and so add no attention."""
    factors = [2**level for level in range(len(ddpm.multipliers))]
    if unused := [number for number in ddpm.attention if number not in factors]:
        print(
            f"note: ddpm.attention = {tuple(ddpm.attention)}: {unused[0]} adds none; its entries are not pixels "
            f"but the downsampling factors of levels, here {', '.join(map(str, factors))}",
            flush=True,
        )


def train_stages(
    config: ConfigDict, workdir: Path, mesh: Mesh, data: Dataset, given: dict, stage: str, left: dict[str, Begun]
) -> None:
    """Train the stages that `stage` names.

    Args:
      given: the initial parameters of each stage that there is, or None.
      left: the checkpoints of the stages that have begun; see `read_checkpoints`.
    """

    def fitted(of: Stage) -> Any:
        pictures = Pictures(of, data, config, workdir)
        average = fit(of, data, config, workdir, mesh, pictures, given[of.name], left.pop(of.name, None)).average
        renew_report(workdir)
        return average

    vae_params: Any = {}
    if "vae" in given:
        first, reuse = vae_stage(config), bool(config.vae.checkpoint)
        if reuse and given["vae"]:
            adopt(first, given["vae"], workdir, abstract_state(first, mesh, config.mesh.fsdp))
        vae_params = restore_average(first, workdir, mesh, fsdp=config.mesh.fsdp) if reuse else fitted(first)
    if stage != "vae":
        measure(config, workdir, vae_params, data)
        fitted(ddpm_stage(config, vae_params))
        advise(workdir / "ddpm", config.ddpm, picture_chain(config))


def fitted_stages(config: ConfigDict, given: dict, stage: str) -> list[Stage]:
    """Return the stages that are trained by this command; the second has no parameters of the VAE yet."""
    first = [vae_stage(config)] if "vae" in given and not config.vae.checkpoint else []
    return [*first, *([ddpm_stage(config, {})] if stage != "vae" else [])]


def check_stages(config: ConfigDict, workdir: Path, mesh: Mesh, data: Dataset, given: dict, stage: str) -> None:
    """Raise UserError for what would stop a stage later, also the second. Only small files are read."""
    for of in fitted_stages(config, given, stage):
        total_steps(of.settings, len(data.train))
        check_memory(abstract_state(of, mesh, config.mesh.fsdp), f"the state of the {of.name.upper()}")
        read_metrics(workdir / of.name)
        if of.name == "ddpm" and config.log.scored:
            check_scored(config, data)


def check_scored(config: ConfigDict, data: Dataset) -> None:
    """Raise UserError if the samples that are drawn in training cannot be scored."""
    space = checked_spaces(config.eval, config.data, data)[0]
    n, D = min(config.log.scored, len(side(data, config.eval.split))), width(space, config.data.image_size)
    if config.checkpoint.best == "fd" and (reason := too_few(space, D, n)):
        raise UserError(f"checkpoint.best = 'fd', but there is {reason}")


def read_checkpoints(config: ConfigDict, workdir: Path, mesh: Mesh, given: dict, stage: str) -> dict[str, Begun]:
    """Return the checkpoints of the stages that have begun; raise UserError if one cannot continue.

    A VAE that was copied from another run is checked too.
    """
    stages = [of for of in fitted_stages(config, given, stage) if newest_step(workdir / of.name) is not None]
    if config.vae.checkpoint and "vae" in given and not given["vae"]:
        restore_average(vae_stage(config), workdir, mesh, fsdp=config.mesh.fsdp)
    return {of.name: begin(of, config, workdir, mesh) for of in stages}


def measure(config: ConfigDict, workdir: Path, vae_params: Any, data: Dataset) -> None:
    """Measure what the target of the refiner needs, and write it to the configuration of the run.

    Values are rounded, so that they do not depend on the number of devices.
    """
    ddpm = config.ddpm
    names = TARGETS[ddpm.prediction](ddpm).lacks(FORMULATIONS[ddpm.variant])
    if not names:
        return
    model, x = VAEDM(config, vae_params, {}), some(data.train, MEASURED_BY)
    for name in names:
        centre = 0.5  # the middle of the range
        if name == "sigma_r":
            centre = model.decode(model.posterior(x)) if model.engine.networks.vae else model.condition(x)
        ddpm[name] = max(round(2 * float(np.sqrt(np.mean((x - centre) ** 2))), 4), 1e-4)
        print(f"ddpm.{name} = {ddpm[name]}, measured on {len(x)} images", flush=True)
    rundir.write_config(workdir, config)


def check_processes(config: ConfigDict, workdir: Path, images: str) -> None:
    """Raise UserError in all processes unless they have the same configuration, data and run directory."""
    if hosts.is_single():
        return
    seen = {
        "another configuration": rundir.encode_config(config),
        "other data": images,
        f"another state of {workdir} (it must be a folder that all share)": str(
            [newest_step(workdir / name) for name in ("vae", "ddpm")]
        ),
    }
    for what, text in seen.items():
        hosts.check_all_agree(hashlib.sha256(text.encode()).digest(), what)


def check_order(config: ConfigDict, workdir: Path, stage: str, total: int) -> None:
    """Raise UserError if stage 2 would be trained on a VAE that is missing, or that would still change."""
    done = newest_step(workdir / "vae") or 0
    if done >= total:
        return
    if stage == "ddpm":
        raise UserError(
            f"--stage=ddpm: the VAE in {shown(workdir)} has {done:,} of its {total:,} steps; train it first "
            "(--stage=vae), or take that of another run (--config.vae.checkpoint=DIR)"
        )
    if newest_step(workdir / "ddpm"):
        raise UserError(
            f"the DDPM in {shown(workdir)} was trained on its VAE of {done:,} steps, which would change with "
            f"{total:,} steps; keep it (--config.vae.steps={done}), or train it further in another --workdir "
            f"(--config.vae.init={shown(workdir)})"
        )


def given_params(name: str, config: ConfigDict, workdir: Path) -> Any | None:
    """Return the parameters that the settings of a stage name, unless it has a checkpoint already."""
    source = (name == "vae" and config.vae.checkpoint) or config[name].init
    if not source or newest_step(workdir / name) is not None:
        return None
    model = VAEDM.open(source)
    theirs, ours = flatten(model.config), flatten(config)
    of_z = ("vae.dec_block", "vae.channels") if name == "ddpm" and config.ddpm.z_conditioning else ()
    differing = [key for key in (*ARCHITECTURE[name], *of_z) if theirs[key] != ours[key]]
    if name == "ddpm" and model.engine.networks.form.shown != FORMULATIONS[config.ddpm.variant].shown:
        differing.append("ddpm.variant")
    if differing:
        key = differing[0]
        raise UserError(
            f"the {name.upper()} in {source} has another architecture: {key} is {brief(repr(theirs[key]))} there and "
            f"{brief(repr(ours[key]))} here"
        )
    if not model.params[name]:
        raise UserError(f"{source} holds no trained {name.upper()}")
    return model.params[name]


def adopt(stage: Stage, params: Any, workdir: Path, like: TrainState) -> None:
    """Save parameters of another run as a checkpoint of a stage, so that the directory holds the whole model."""
    with closing(Checkpoints(workdir / stage.name / "checkpoints")) as checkpoints:
        checkpoints.save(new_state(stage, like, jax.random.key(0), params))


class Pictures:
    """Draws pictures during training, and computes the held-out loss and scores of samples."""

    def __init__(self, stage: Stage, data: Dataset, config: ConfigDict, workdir: Path):
        self.stage, self.config, self.folder = stage, config, workdir / stage.name / "pictures"
        self.test, self.shown = data.test, preview(data.test, config.log.images)
        self.held_out = preview(data.test, stage.settings.batch_size)
        self.metrics = held_out_metrics(stage, make_mesh(config.mesh.model))
        self.judge = None
        if config.log.scored and stage.name == "ddpm":
            place = workdir / "evaluation" / "reference"
            self.judge = next(judges(config.eval, config.data, data, make_mesh(), config.sample.batch_size, place))

    def __call__(self, step: int, average: Any, poll: Poll) -> dict[str, float]:
        """Write the picture of a step, and return metrics of the averaged parameters; `poll` is called in between."""
        rows = self.vae_rows(average) if self.stage.name == "vae" else self.ddpm_rows(average, poll)
        caption = f"{self.stage.name}, step {step:,}: " + ", ".join(dict.fromkeys(label for label, _ in rows))
        picture = grid([images for _, images in rows], [label for label, _ in rows])
        save_png(self.folder / f"step_{step:07d}.png", picture, caption)
        held_out = self.metrics(average, self.held_out, poll)
        return {f"held_out_{name}": value for name, value in held_out.items()} | self.scores(average, poll)

    def scores(self, average: Any, poll: Poll) -> dict[str, float]:
        """Return `kid` and `fd` of samples, if `log.scored` asks for them."""
        if not self.judge:
            return {}
        samples = self.samples(average, self.config.log.scored, poll)
        found = self.judge.scores(self.judge.add(None, to_uint8(samples.images)))
        return {name: found[name] for name in ("kid", "fd") if found[name] is not None}

    def vae_rows(self, average: Any) -> list[tuple[str, np.ndarray]]:
        """Return the rows of the picture of stage 1, with their labels."""
        model = VAEDM(self.config, average, {})
        half = self.shown[: max(1, len(self.shown) // 2)]
        return [
            ("held out", half),
            ("reconstructed", model.reconstruct(half)),
            ("from the prior", model.sample_x_hat(len(half))),
        ]

    def ddpm_rows(self, average: Any, poll: Poll) -> list[tuple[str, np.ndarray]]:
        """Return the rows of the picture of stage 2, with their labels."""
        n = self.config.log.images
        held_out = cycled(self.test, 0, n) if parse_condition(self.config.ddpm.condition) else None
        return sample_rows(*self.samples(average, n, poll), held_out=held_out)

    def samples(self, average: Any, n: int, poll: Poll) -> Samples:
        """Return n samples; with a condition they are made from held-out images."""
        model = VAEDM(self.config, self.stage.frozen, average)
        x_hat = model.condition(cycled(self.test, 0, n)) if model.engine.networks.condition else None
        chain, batch_size = picture_chain(self.config), self.config.sample.batch_size
        return model.sample(n, chain=chain, batch_size=batch_size, x_hat=x_hat, progress=lambda *_: poll())
