"""Settings that cannot be, by themselves or together, refused before anything is loaded or compiled."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vaedm_jax.conditioning.conditions import condition_of, has_vae
from vaedm_jax.config.build import chain_of, flatten, picture_chain
from vaedm_jax.config.settings import SETTINGS, Choice, Number
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.schedule import schedule_of
from vaedm_jax.errors import UserError, brief, in_range, naming, one_of
from vaedm_jax.runtime.memory import check_fits

MOST_SIGNAL = 0.01  # alpha_bar at T of a schedule that is trained with, unless more is asked for
MOST_ENTRIES, MOST_CHARACTERS = 1000, 10_000  # of a tuple; of a text
# Settings by whose product so many images are held in memory at once.
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
    """Refuse values that no code below would accept, before anything is loaded or compiled.

    Args:
      to_train: takes in what matters to training alone: how long, batches that the devices share, pictures on the way.
      to_run: takes in what this machine must hold in its memory.
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
        raise UserError("log.scored = 1: one sample has no score; give more, or 0 for none")
    if to_train:
        for name in ("vae", "ddpm") if has_vae(config.ddpm) else ("ddpm",):
            check_stage(name, config[name], config.mesh.model)
        check_schedule(config.ddpm)
        check_pictures(config)


def check_values(config: ConfigDict) -> None:
    """UserError names the first setting that has a value outside of its own range or list, or one that is too long."""
    values = flatten(config)
    for name, value in values.items():
        check_length(name, value)
        setting = SETTINGS[name]
        if isinstance(setting, Number):
            in_range(name, value, *setting.range)
        elif isinstance(setting, Choice):
            one_of(name, value, setting.allowed)
    last = config.sample.seed + config.eval.seeds - 1
    in_range("last seed (sample.seed + eval.seeds - 1)", last, 0, 2**32 - 1)
    condition_of(config.ddpm.condition)
    if not config.ddpm.multipliers:
        raise UserError("ddpm.multipliers = (): there must be at least one, that of the first level's width")
    with naming("sample."):
        chain_of(config.sample)


def check_length(name: str, value: Any) -> None:
    """UserError where a setting has no value, or a text or a tuple that is too long."""
    if value is None:
        raise UserError(f"{name} = None: it must have a value")
    if isinstance(value, str):
        in_range(f"length of {name}", len(value), 0, MOST_CHARACTERS, "no path and no list of names is longer")
        if "\0" in value:
            raise UserError(f"{name} = {brief(repr(value))}: the character 0 is in no name")
    if isinstance(value, tuple):
        in_range(f"length of {name}", len(value), 0, MOST_ENTRIES, "each entry has a part in a network or a table")


def check_held(settings: Mapping[str, Any]) -> None:
    """UserError names the first settings by which the memory of this machine does not hold the images at once."""
    size = settings["data.image_size"]
    for names in HELD:
        given = " and ".join(f"{name} = {settings[name]:,}" for name in names)
        check_fits(
            f"{given}, images of {size} x {size} pixels", math.prod(settings[n] for n in names) * 3 * size**2 * 4
        )


def check_schedule(ddpm: Any) -> None:
    """UserError where the last step leaves so much of the image that a chain from pure noise would draw wrong ones."""
    signal = schedule_of(ddpm).alpha_bar[-1]
    if signal > MOST_SIGNAL and not ddpm.allow_signal_at_T:
        scaling = "" if ddpm.scale_betas else "; --config.ddpm.scale_betas=True takes the betas for 1,000 steps"
        raise UserError(
            f"ddpm.T = {ddpm.T}, ddpm.beta_1 = {ddpm.beta_1:g}, ddpm.beta_T = {ddpm.beta_T:g}: alpha_bar at T is "
            f"{signal:.2g}, and should be {MOST_SIGNAL} at most, since chains begin at pure noise, as if it were 0; "
            f"raise T or the betas{scaling}; --config.ddpm.allow_signal_at_T=True trains all the same"
        )


def check_pictures(config: ConfigDict) -> None:
    """UserError where a chain of `sample`, or of the pictures on the way, cannot be."""
    chain = chain_of(config.sample)
    if chain.start == "warm" and not chain.t_start:
        raise UserError("sample.t_start = 0 is found by a model; pictures on the way need a number, such as 500")
    with naming("sample: "):
        check_chain(config, chain)
    with naming("log.sample_steps: "):
        check_chain(config, picture_chain(config))


def check_chain(config: ConfigDict, chain: Chain) -> None:
    """UserError where a model of this configuration cannot be sampled by a chain."""
    ddpm = config.ddpm
    if chain.start == "warm" and not (has_vae(ddpm) or condition_of(ddpm.condition)):
        raise UserError("start = 'warm' begins at x_hat, and this model has none; start from 'noise'")
    if chain.z_temperature != 1 and not has_vae(ddpm):
        raise UserError(f"z_temperature = {chain.z_temperature:g}: this model has no VAE, hence no z; leave it at 1")
    if chain.guidance and not ddpm.cond_dropout:
        raise UserError(
            f"guidance = {chain.guidance:g} needs a refiner that also knows the image without its condition; train "
            "it with --config.ddpm.cond_dropout=0.1"
        )
    check_cond_noise(config, chain)
    chain.schedule(schedule_of(ddpm))


def check_cond_noise(config: ConfigDict, chain: Chain) -> None:
    """UserError where x_hat would be noised more than in training."""
    in_range("cond_noise", chain.cond_noise, 0, config.ddpm.cond_noise, "the refiner is trained on no more")


def check_condition(config: ConfigDict) -> None:
    """UserError where something is asked for that the refiner is not shown."""
    ddpm, size = config.ddpm, config.data.image_size
    condition, named = condition_of(ddpm.condition), f"ddpm.condition = {ddpm.condition!r}"
    if condition and ddpm.z_conditioning:
        raise UserError(f"{named}, ddpm.z_conditioning: there is no VAE, hence no z; leave one of them")
    if ddpm.variant == "uncond" and (condition or (config.sample.start == "warm" and not has_vae(ddpm))):
        setting = named if condition else "sample.start = 'warm'"
        raise UserError(f"{setting}: ddpm.variant = 'uncond' is shown nothing; use form1 or form2")
    if config.vae.checkpoint and not has_vae(ddpm):
        why = named if condition else "ddpm.variant = 'uncond'"
        raise UserError(f"vae.checkpoint: {why} has no VAE; leave it out")
    if condition and size % condition.factor:
        raise UserError(f"{named}: it must divide data.image_size = {size}")


def check_target(ddpm: ConfigDict) -> None:
    """UserError where the refiner cannot be asked for what `prediction` names, or x_hat cannot be noised."""
    if ddpm.prediction == "residual" and ddpm.variant == "form2":
        raise UserError(
            "ddpm.prediction = 'residual', ddpm.variant = 'form2': the shift by x_hat cancels, so that it is the model "
            "of form1; use form1"
        )
    if ddpm.cond_noise and ddpm.variant == "uncond":
        raise UserError(f"ddpm.cond_noise = {ddpm.cond_noise}: ddpm.variant = 'uncond' is shown nothing; leave it at 0")
    in_range("ddpm.cond_noise", ddpm.cond_noise, 0, ddpm.T, "the chain has no more steps (ddpm.T)")


def check_stage(name: str, stage: ConfigDict, model: int) -> None:
    if not stage.steps and not stage.epochs:
        raise UserError(f"{name}.steps and {name}.epochs are both 0: one of them says how long to train")
    devices = max(1, jax.device_count() // model)
    parts = stage.microbatches * devices
    if stage.batch_size % parts:
        raise UserError(
            f"{name}.batch_size = {stage.batch_size}: it must be a multiple of {parts}, which is devices ({devices}) "
            f"times {name}.microbatches ({stage.microbatches}), such as {-(-stage.batch_size // parts) * parts}"
        )
