"""From where to where the settings may be: each number has an upper bound, and what is held at once fits the memory."""

import math
from collections.abc import Mapping
from typing import Any

from vaedm_jax.errors import Range, UserError, brief, in_range, in_ranges
from vaedm_jax.runtime.memory import check_fits

COUNTED = "steps and images are counted in 32 bits"
FILES = "each is a file"
PROCESSES = "each is a process of its own"
NETWORK = "no device holds a network so large"
LISTED = "each has a line in a table, or a part of a picture"
IN_FLOAT32 = "steps of a larger one are not finite in float32"
MOST_COUNT = 2**31 - 1

# Of all settings but those of `sample` that are a chain's, which are in diffusion/chain.py.
RANGES = (
    Range(0, 2**32 - 1, ("seed", "sample.seed")),
    # What counts in a loop, and takes no memory.
    Range(0, MOST_COUNT, ("vae.steps", "ddpm.steps", "*.warmup", "vae.kl_warmup"), COUNTED),
    Range(
        1, MOST_COUNT,
        ("log.every", "log.pictures", "checkpoint.every", "sample.n", "prior.steps"), COUNTED,
    ),
    Range(2, MOST_COUNT, ("eval.n",), COUNTED),
    Range(1, 10**7, ("data.avatars",), "each has a label in memory, and takes some milliseconds to draw"),
    Range(0, MOST_COUNT, ("restore.n", "prior.images", "eval.bits", "plan.images"), COUNTED),
    Range(0.0, 1e9, ("*.epochs",), COUNTED),
    # What is held in memory, beside which `check_held` asks for the memory that there is.
    Range(1, 8192, ("*.image_size",), "attention takes memory by the square of the number of pixels"),
    Range(
        1, 2**24, ("*.batch_size", "*.microbatches"),
        "the images are held in memory at once",
    ),
    Range(0, 2**24, ("log.scored",), "the images are held in memory at once"),
    Range(1, 10_000, ("log.images", "figures.columns"), "all are shown in one picture"),
    Range(3, 2**16, ("figures.z", "figures.x_T"), "the images of all pairs are held in memory at once"),
    Range(1, 2**26, ("restore.pixels",), "attention takes memory by the square of their number"),
    Range(2, 1024, ("restore.factor",), "the restored picture is so many times as wide and as high"),
    Range(1, 2**40, ("data.max_pixels",), "no machine has the memory to decode more"),
    # What sizes the networks, their tables and their programs.
    Range(1, 100_000, ("ddpm.T",), "tables in memory have an entry for each step"),
    Range(0, 100_000, ("ddpm.cond_noise",), "tables in memory have an entry for each step"),
    Range(1, 2**16, ("ddpm.channels",), NETWORK),
    Range(1, 1024, ("ddpm.multipliers", "ddpm.heads"), NETWORK),
    Range(1, 64, ("ddpm.blocks",), NETWORK),
    Range(1, 8192, ("ddpm.attention", "ddpm.patch"), "images have no more pixels a side"),
    Range(1, 100_000, ("eval.steps", "figures.steps", "log.sample_steps"), "a chain has no more steps"),
    Range(1, 100_000, ("eval.seeds",), LISTED),
    Range(1, 10_000, ("prior.components",), "each has a covariance matrix"),
    # What makes processes and files.
    Range(0, 1024, ("*.workers",), PROCESSES),
    Range(0, 100_000, ("prepare.shards",), FILES),
    Range(1, 100_000, ("checkpoint.keep",), FILES),
    Range(1, 2**20, ("mesh.model",), "no more devices are known to work together"),
    Range(1, 65535, ("explore.port",)),
    # What is no count.
    Range(0.0, 1e3, ("*.learning_rate",), IN_FLOAT32),
    Range(0.0, 1e9, ("vae.clip", "ddpm.clip", "vae.kl_weight"), IN_FLOAT32),
    Range(0.0, 1e3, ("ddpm.sigma_*",), "images lie in [-1, 1]"),
    Range(1e-6, 1e9, ("ddpm.min_snr",), IN_FLOAT32),
    Range(-50.0, 50.0, ("ddpm.t_mean",), "no chain has so much noise"),
    Range(0.0, 50.0, ("ddpm.t_deviation",), "no chain has so much noise"),
    Range(1e-6, 1e3, ("restore.sigma",), "nothing is left of a picture in more noise"),
    Range(0.0, 1.0, ("*.ema_decay", "ddpm.dropout", "ddpm.cond_dropout")),
    Range(0.0, 1 - 1e-9, ("data.held_out",), "images to train on are needed too"),
    Range(1e-9, 0.999, ("ddpm.beta_*",)),
)  # fmt: skip
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


def check_ranges(settings: Mapping[str, Any]) -> None:
    """UserError names the first of the settings, {"ddpm.T": 1000, ...}, that is out of its range, or too long."""
    for name, value in settings.items():
        if value is None:
            raise UserError(f"{name} = None: it must have a value")
        if isinstance(value, str):
            in_range(f"length of {name}", len(value), 0, MOST_CHARACTERS, "no path and no list of names is longer")
            if "\0" in value:
                raise UserError(f"{name} = {brief(repr(value))}: the character 0 is in no name")
        if isinstance(value, tuple):
            in_range(f"length of {name}", len(value), 0, MOST_ENTRIES, "each entry has a part in a network or a table")
    in_ranges(settings, RANGES)
    last = settings["sample.seed"] + settings["eval.seeds"] - 1
    in_range("last seed (sample.seed + eval.seeds - 1)", last, 0, 2**32 - 1)


def check_held(settings: Mapping[str, Any]) -> None:
    """UserError names the first settings by which the memory of this machine does not hold the images at once."""
    size = settings["data.image_size"]
    for names in HELD:
        given = " and ".join(f"{name} = {settings[name]:,}" for name in names)
        check_fits(
            f"{given}, images of {size} x {size} pixels", math.prod(settings[n] for n in names) * 3 * size**2 * 4
        )
