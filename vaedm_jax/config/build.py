"""Functions that build a configuration from the defaults, and that read parts of one."""

from typing import Any

from ml_collections import ConfigDict

from vaedm_jax.config.settings import SECTIONS, TOP, Choice, Number, Section
from vaedm_jax.config.trust import check_borrowed
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.errors import check_choice
from vaedm_jax.storage.paths import resolve_path

Config = Any  # a ConfigDict, whose attributes have no static types

# Patterns of settings that may differ when a run directory is used again. Other settings define the model.
FREE = (
    "*.steps",
    "*.epochs",
    "*.microbatches",
    "*.precision",
    "*.remat",
    "*.packed",
    "ddpm.allow_signal_at_T",
    "mesh.*",
    "xla.*",
    "log.*",
    "restore.*",
    "figures.*",
    "explore.*",
    "plan.*",
    "checkpoint.*",
    "sample.*",
    "eval.*",
    "data.tfds_dir",
    "data.archive",
    "data.workers",
    "data.max_pixels",
    "data.changed",
    "prepare.*",
    "prior.*",
    "tune.*",
)
# Patterns of settings that may be changed during a run. A note says so, and the run continues.
TUNABLE = (
    *("*.learning_rate", "*.decay", "*.warmup", "*.clip", "*.ema_*", "ddpm.dropout", "ddpm.cond_dropout"),
    *("ddpm.weighting", "ddpm.min_snr", "ddpm.t_*"),
)
# Settings that training measures from x_hat and the images if they are 0.
MEASURED = ("ddpm.sigma_r", "ddpm.sigma_data")


def base_config(variant: str = "form1") -> Config:
    """Return the default configuration. Networks and optimisation are the paper's for CIFAR-10 (appendix E).

    Args:
      variant: `uncond` (a plain DDPM), `form1` or `form2` (the paper's Formulations 1 and 2).
    """
    check_choice("variant", variant, FORMULATIONS)
    c: Config = ConfigDict(defaults(TOP) | {name: defaults(section) for name, section in SECTIONS.items()})
    c.ddpm.variant = variant
    return c.lock()


def defaults(section: Section) -> dict[str, Any]:
    """Return the default of each setting of a section."""
    return {name: s.default if isinstance(s, Number | Choice) else s for name, s in section.items()}


def published_config(variant: str = "form1") -> Config:
    """Return the default configuration with the settings of the published implementation, where they differ.

    The files of the published models do not contain these settings.
    """
    c = base_config(variant).unlock()
    c.ddpm.heads, c.ddpm.ema_schedule, c.data.flip = 8, "constant", True
    c.ddpm.scale_betas = False
    c.sample.variance, c.sample.clip_eps = "fixedlarge", False
    return c.lock()


def small_config(variant: str = "form1") -> Config:
    """Return a configuration for 32 x 32 images on two CPU cores: a VAE with 1.6 M and a U-Net with 4.5 M parameters.

    The U-Net works on patches of 2 x 2 pixels.
    """
    c = base_config(variant).unlock()
    c.vae.enc_block = "32d2,32t16,16d2,16t8,8x1,8d2,8t4,4x1,4d4,4t1,1x1"
    c.vae.dec_block = "1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32,32x1"
    c.vae.channels = "32:16,16:64,8:128,4:256,1:64"
    c.vae.batch_size, c.vae.steps, c.vae.learning_rate = 32, 4000, 5e-4
    c.vae.ema_decay = 0.999

    c.ddpm.channels, c.ddpm.multipliers, c.ddpm.blocks, c.ddpm.patch = 64, (1, 2, 2), 1, 2
    c.ddpm.batch_size, c.ddpm.steps, c.ddpm.learning_rate = 32, 12800, 1e-3
    c.ddpm.warmup, c.ddpm.dropout = 500, 0.0
    c.ddpm.ema_decay, c.ddpm.ema_schedule = 0.999, "constant"

    c.log.pictures, c.checkpoint.every = 500, 500
    c.sample.sampler, c.sample.start, c.sample.steps = "unipc2", "warm", 5
    if variant == "uncond":
        c.sample.sampler, c.sample.start, c.sample.steps = "ddpm", "noise", 50
    c.sample.nearest = True
    return c.lock()


def data_section(config: Config, trained: Config) -> Config:
    """Return the `data` section that a model was trained with.

    Args:
      config: the configuration of the command. Its `data.path`, `data.archive` and `data.tfds_dir`, if set, are used
        instead: the files may have moved. So are its `data.workers`, and the larger of both `data.max_pixels` and of
        both `data.avatars`, so that weights of the package can be scored against more faces than it holds.
      trained: the configuration of the model, which was read from a file.

    Raises:
      UserError: the model's section would run code or use the network; see `trust.check_borrowed`.
    """
    section = trained.data.copy_and_resolve_references()
    section.archive = config.data.archive or section.archive
    section.tfds_dir = config.data.tfds_dir or section.tfds_dir
    for name in ("max_pixels", "avatars"):
        section[name] = max(config.data[name], section[name])
    section.workers = config.data.workers
    named = {f"data.{name}" for name, value in section.items() if value == config.data[name]}
    check_borrowed(flatten({"data": section}), "the model's configuration", named)
    if section.path and config.data.path:
        section.path = config.data.path
    return section


def with_absolute_paths(config: Config) -> Config:
    """Return the configuration with absolute paths to its data, so that it is valid in any working directory."""
    config = config.copy_and_resolve_references()
    for name in ("path", "archive", "tfds_dir"):
        written = config.data[name]
        if written and "://" not in written:  # tfds also reads from gs://
            config.data[name] = str(resolve_path(written, f"data.{name}"))
    return config


def make_chain(settings: Any, **changes: Any) -> Chain:
    """Return the chain of a `sample` section, with some settings changed."""
    return Chain(**{name: getattr(settings, name) for name in Chain.__dataclass_fields__} | changes)


def picture_chain(config: Config) -> Chain:
    """Return the chain for the pictures during training.

    It has `log.sample_steps` steps, and the spacing "even", which allows any number of steps.
    """
    return make_chain(config.sample, steps=config.log.sample_steps, spacing="even")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as a flat dict with full names, `{"ddpm.batch_size": 128, ...}`."""
    flat = {}
    for key, value in config.items():
        is_section = isinstance(value, ConfigDict | dict)
        flat |= flatten(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return flat


def names(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]
