"""Checks of settings and of their combinations, before anything is loaded or compiled."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vaedm_jax.conditioning.conditions import has_vae, parse_condition
from vaedm_jax.config.build import flatten, make_chain, picture_chain
from vaedm_jax.config.settings import SETTINGS, Choice, Number
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.learnt import TEACHER, TUNED
from vaedm_jax.diffusion.schedule import make_schedule
from vaedm_jax.errors import UserError, brief, check_choice, check_range, prefix_errors
from vaedm_jax.runtime.memory import check_fits

MOST_SIGNAL = 0.01  # the largest alpha_bar at T, unless ddpm.allow_signal_at_T is set
LEAST_SIGNAL = 1e-75  # the root of a smaller alpha_bar is 0 in float32
MOST_ENTRIES, MOST_CHARACTERS = 1000, 10_000  # the longest tuple and the longest string
# Settings whose product is a number of images that are held in memory at once.
HELD = (
    ("vae.batch_size",),
    ("ddpm.batch_size",),
    ("sample.batch_size",),
    ("log.images",),
    ("log.scored",),
    ("figures.columns",),
    ("figures.z", "figures.x_T"),
)


def check(config: ConfigDict, to_train: bool = True, to_run: bool = True) -> None:
    """Raise UserError if a setting, or a combination of settings, is not allowed.

    Args:
      config: the configuration.
      to_train: also check what only training needs: its length, its batch sizes, loss, schedule and pictures.
      to_run: also check that the images fit into the memory of this machine.
    """
    check_values(config)
    if to_run:
        check_held(flatten(config))
    check_condition(config)
    check_target(config.ddpm)
    if config.checkpoint.best not in ("", "held_out_loss") and not config.log.scored:
        best = config.checkpoint.best
        raise UserError(f"checkpoint.best = {best!r} needs samples to score, such as --config.log.scored=200")
    if config.log.scored == 1:
        raise UserError("log.scored = 1: one sample cannot be scored; it must be 2 or more, or 0 for none")
    if to_train:
        for name in ("vae", "ddpm") if has_vae(config.ddpm) else ("ddpm",):
            check_stage(name, config[name], config.mesh.model)
        check_weighting(config.ddpm)
        check_schedule(config.ddpm)
        check_pictures(config)


def check_values(config: ConfigDict) -> None:
    """Raise UserError for the first setting with a value that is too long, outside its range, or not in its list."""
    values = flatten(config)
    for name, value in values.items():
        check_length(name, value)
        setting = SETTINGS[name]
        if isinstance(setting, Number):
            check_range(name, value, *setting.range)
        elif isinstance(setting, Choice):
            check_choice(name, value, setting.allowed)
    last = config.sample.seed + config.eval.seeds - 1
    check_range("last seed (sample.seed + eval.seeds - 1)", last, 0, 2**32 - 1)
    parse_condition(config.ddpm.condition)
    if not config.ddpm.multipliers:
        raise UserError("ddpm.multipliers = (): it must have at least one number, for the width of the first level")
    with prefix_errors("sample."):
        make_chain(config.sample)


def check_length(name: str, value: Any) -> None:
    """Raise UserError if a setting is None, or is a string or a tuple that is too long."""
    if value is None:
        raise UserError(f"{name} = None: it must have a value")
    if isinstance(value, str):
        check_range(f"length of {name}", len(value), 0, MOST_CHARACTERS, "no path and no list of names is longer")
        if "\0" in value:
            raise UserError(f"{name} = {brief(repr(value))}: it must not contain a zero character")
    if isinstance(value, tuple):
        check_range(f"length of {name}", len(value), 0, MOST_ENTRIES, "each entry has a part in a network or a table")


def check_held(settings: Mapping[str, Any]) -> None:
    """Raise UserError for the first settings whose images do not fit into the memory of this machine."""
    size = settings["data.image_size"]
    for names in HELD:
        given = " and ".join(f"{name} = {settings[name]:,}" for name in names)
        check_fits(
            f"{given}, images of {size} x {size} pixels", math.prod(settings[n] for n in names) * 3 * size**2 * 4
        )


def check_weighting(ddpm: ConfigDict) -> None:
    """Raise UserError if `weighting` would have no effect."""
    if ddpm.objective == "consistency" and ddpm.weighting != "mse":
        raise UserError(
            f"ddpm.weighting = {ddpm.weighting!r}, ddpm.objective = 'consistency': this objective has a weight of its "
            "own; ddpm.weighting must be 'mse'"
        )


def check_schedule(ddpm: Any) -> None:
    """Raise UserError if alpha_bar at T is below LEAST_SIGNAL, or above MOST_SIGNAL without `ddpm.allow_signal_at_T`.

    Above, chains that start from pure noise would draw wrong samples; below, the clean image is divided by 0.
    """
    signal = make_schedule(ddpm).alpha_bar[-1]
    scaling = "" if ddpm.scale_betas else "; --config.ddpm.scale_betas=True takes the betas as those of 1,000 steps"
    found = (
        f"ddpm.T = {ddpm.T}, ddpm.beta_1 = {ddpm.beta_1:g}, ddpm.beta_T = {ddpm.beta_T:g}: alpha_bar at T is "
        f"{signal:.2g}; it should be at"
    )
    if signal < LEAST_SIGNAL:
        raise UserError(f"{found} least {LEAST_SIGNAL}: float32 has no smaller root; lower T or the betas{scaling}")
    if signal > MOST_SIGNAL and not ddpm.allow_signal_at_T:
        raise UserError(
            f"{found} most {MOST_SIGNAL}, since chains start from pure noise; raise T or the betas{scaling}; "
            "--config.ddpm.allow_signal_at_T=True trains anyway"
        )


def check_pictures(config: ConfigDict) -> None:
    """Raise UserError if the chain of `sample`, or that of the pictures during training, is not possible."""
    chain = make_chain(config.sample)
    if chain.start == "warm" and not chain.t_start:
        raise UserError("sample.t_start = 0 needs a trained model; pictures during training need a step, such as 500")
    if chain.sampler == TUNED:
        raise UserError(
            f"sample.sampler = {TUNED!r} needs a trained model with a learnt table; pictures during training need "
            f"another sampler, such as {TEACHER!r}"
        )
    with prefix_errors("sample: "):
        check_chain(config, chain)
    with prefix_errors("log.sample_steps: "):
        check_chain(config, picture_chain(config))


def check_chain(config: ConfigDict, chain: Chain) -> None:
    """Raise UserError if a model of this configuration cannot be sampled with a chain."""
    ddpm = config.ddpm
    if chain.start == "warm" and not (has_vae(ddpm) or parse_condition(ddpm.condition)):
        raise UserError("start = 'warm': this model has no x_hat to start from; use start = 'noise'")
    if chain.z_temperature != 1 and not has_vae(ddpm):
        raise UserError(f"z_temperature = {chain.z_temperature:g}: this model has no VAE and no z; it must be 1")
    if chain.guidance and ddpm.variant == "uncond" and not ddpm.z_conditioning:
        raise UserError(f"guidance = {chain.guidance:g}: this model is shown neither x_hat nor z; it must be 0")
    if chain.guidance and not ddpm.cond_dropout:
        raise UserError(
            f"guidance = {chain.guidance:g}: the refiner must be trained to work without its condition too, as by "
            "--config.ddpm.cond_dropout=0.1; otherwise guidance must be 0"
        )
    if chain.guidance and ddpm.objective == "consistency":
        raise UserError(
            f"guidance = {chain.guidance:g}: ddpm.objective = 'consistency' gives samples, not the mean of the clean "
            "image that guidance moves; it must be 0"
        )
    check_cond_noise(config, chain)
    chain.schedule(make_schedule(ddpm))


def check_cond_noise(config: ConfigDict, chain: Chain) -> None:
    """Raise UserError if the chain would noise x_hat more than training did."""
    check_range("cond_noise", chain.cond_noise, 0, config.ddpm.cond_noise, "training noises x_hat no more")


def check_condition(config: ConfigDict) -> None:
    """Raise UserError if the condition does not fit the variant, the image size or the other settings."""
    ddpm, size = config.ddpm, config.data.image_size
    condition, named = parse_condition(ddpm.condition), f"ddpm.condition = {ddpm.condition!r}"
    if condition and ddpm.z_conditioning:
        raise UserError(f"{named}, ddpm.z_conditioning: this condition has no VAE and no z; use only one of them")
    if ddpm.variant == "uncond" and (condition or (config.sample.start == "warm" and not has_vae(ddpm))):
        setting = named if condition else "sample.start = 'warm'"
        raise UserError(f"{setting}: ddpm.variant = 'uncond' is shown nothing; use form1 or form2")
    if config.vae.checkpoint and not has_vae(ddpm):
        why = named if condition else "ddpm.variant = 'uncond'"
        raise UserError(f"vae.checkpoint: {why} has no VAE; it must be empty")
    if condition and size % condition.factor:
        raise UserError(f"{named}: its factor must divide data.image_size = {size}")


def check_target(ddpm: ConfigDict) -> None:
    """Raise UserError if `prediction` or `cond_noise` does not fit the variant."""
    if ddpm.prediction == "residual" and ddpm.variant == "form2":
        raise UserError(
            "ddpm.prediction = 'residual', ddpm.variant = 'form2': the shift by x_hat cancels, which leaves the "
            "model of form1; use form1"
        )
    if ddpm.prediction == "eps" and ddpm.objective == "consistency":
        raise UserError(
            "ddpm.prediction = 'eps', ddpm.objective = 'consistency': at much noise the clean image has large errors "
            "then; use 'residual', or 'v' for form2"
        )
    if ddpm.cond_noise and ddpm.variant == "uncond":
        raise UserError(f"ddpm.cond_noise = {ddpm.cond_noise}: ddpm.variant = 'uncond' is shown nothing; it must be 0")
    check_range("ddpm.cond_noise", ddpm.cond_noise, 0, ddpm.T, "the chain has no more steps (ddpm.T)")


def check_stage(name: str, stage: ConfigDict, model: int) -> None:
    """Raise UserError if a stage has no length, or a batch that cannot be divided among microbatches and devices.

    Args:
      name: the section, `vae` or `ddpm`.
      stage: the section's settings.
      model: `mesh.model`, the number of devices that share each image.
    """
    if not stage.steps and not stage.epochs:
        raise UserError(f"{name}.steps and {name}.epochs are both 0: one of them must set how long to train")
    devices = max(1, jax.device_count() // model)
    parts = stage.microbatches * devices
    if stage.batch_size % parts:
        raise UserError(
            f"{name}.batch_size = {stage.batch_size}: it must be a multiple of {parts}, which is devices ({devices}) "
            f"times {name}.microbatches ({stage.microbatches}), such as {-(-stage.batch_size // parts) * parts}"
        )
