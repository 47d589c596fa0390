"""The command line as a configuration, a directory and a mode; whatever is not understood is a UserError."""

import difflib
import os
import re
import traceback
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from vaedm_jax.config import base_config, flatten, published_config, trust
from vaedm_jax.errors import UserError, brief
from vaedm_jax.runs import rundir
from vaedm_jax.runs.models import config_of
from vaedm_jax.storage.paths import folder, opened, path_of

# Where one of these names models, none need be in the directory, and the first of them has the configuration.
OWN_MODELS = ("sample.weights", "eval.runs", "ddpm.init")
# Modes that turn one file into another, by --from and --out, with no run directory; the configuration they begin with.
FILES = {"import": published_config, "export": base_config}
# The modes that a flag belongs to, where it is not for all.
BELONGS = {
    "stage": ("train",),
    "distributed": ("train", "sample", "evaluate"),  # several processes can share these
    "targets": ("plan",),
    "from": tuple(FILES),
    "out": tuple(FILES),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple of whole numbers"}


class Command(NamedTuple):
    """What is asked for.

    Attributes:
      stage: None where it is not said. distributed: None where there is one process.
      workdir: None for the modes of FILES, which have `source` and `out` in its place.
    """

    mode: str
    stage: str | None
    distributed: str | None
    config: ConfigDict
    workdir: Path | None
    source: str | None
    out: str | None


def defined(modes: Collection[str], stages: Collection[str]) -> flags.FlagValues:
    """All flags but those of the settings."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    flags.DEFINE_enum("stage", None, stages, "Which stages to train (default: all).", flag_values=values)
    flags.DEFINE_string("targets", None, "Accelerators to plan for, such as tpu-v2-8,tpu-v5e-1.", flag_values=values)
    flags.DEFINE_string(
        "distributed", None, "One of several processes that train, sample or evaluate together, each by this command: "
        "K/N@HOST:PORT is the K-th of N (from 0), and 'auto' asks Slurm, Open MPI, Kubernetes or the TPU pod.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "from", None, "What modes import and export read: files of PyTorch, by commas; a run directory or weights.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("out", None, "The file that they write.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Directory of the run; it is made where it is not there.", flag_values=values)
    flags.DEFINE_string(
        "config", None, "FILE.py or FILE.py:VARIANT (default: that of the weights or the runs that are named, "
        "else of the run in --workdir). --config.NAME=VALUE changes a setting; vaedm_jax/config/settings.py lists all.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)
    return values


def parse(argv: Sequence[str], modes: Collection[str], stages: Collection[str]) -> Command | str:
    """The command in argv, of which the first is the program's name; the text to show where help is asked for."""
    values = defined(modes, stages)
    try:
        # The settings that may follow --config. are known once the configuration is.
        rest = values(argv, known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(str(error).removeprefix("flag ")) from error
    if values.help:
        return values.module_help(__name__)
    for match in filter(None, (re.match(r"--?(?!(?:no)?config\.)([A-Za-z][^=]*)", arg) for arg in rest)):
        raise UserError(f"--{match[1]}: there is no such flag; {nearest(match[1], list(values))}")
    check_belonging(values)
    workdir = None
    if values.mode in FILES:
        check_files(values)
    else:
        workdir = directory(values.workdir)
    check_names(rest)
    config = begun(values.mode, values.config, workdir, named_model(rest))
    override(config, rest)
    if not values.config and values.mode not in FILES:
        named = {match[1] for match in filter(None, (re.match(r"--?config\.([^=]*)", arg) for arg in rest))}
        trust.check_borrowed(flatten(config), named_model(rest) or str(workdir / rundir.FILE), named)
    if values.targets:
        config.plan.targets = values.targets
    return Command(values.mode, values.stage, values.distributed, config, workdir, values["from"].value, values.out)


def begun(mode: str, spec: str | None, workdir: Path | None, model: str) -> ConfigDict:
    """The configuration that the settings change: that of a file, of a model that is named, or of the run."""
    if spec:
        config = load(spec)
        if workdir:
            rundir.keep_old_meaning(config, workdir)
        return config
    if mode in FILES:
        return FILES[mode]()
    if model:
        return config_of(model)
    if mode in ("plan", "prepare") and not (workdir / rundir.FILE).is_file():
        raise UserError(f"--config=FILE is missing: mode '{mode}' needs one, such as configs/cifar10.py")
    return rundir.read_config(workdir)


def directory(workdir: str | None) -> Path:
    """The directory of the run; UserError where it is not named, or a file lies in its place."""
    if not workdir:
        raise UserError("--workdir=DIR is missing: the directory of the run")
    path = path_of(workdir, "--workdir")
    folder(next(p for p in (path, *path.parents) if os.path.lexists(p)), "--workdir")
    return path


def check_belonging(values: flags.FlagValues) -> None:
    """UserError names the first flag that says nothing to the mode."""
    for name, modes in BELONGS.items():
        if values[name].value is not None and values.mode not in modes:
            raise UserError(
                f"--{name}={values[name].value} belongs to --mode={' or '.join(modes)}; leave it out with "
                f"--mode={values.mode}"
            )


def check_files(values: flags.FlagValues) -> None:
    """UserError unless it is said what to read and what to write."""
    for name in ("from", "out"):
        if not values[name].value:
            raise UserError(f"--{name}=FILE is missing: mode '{values.mode}' reads --from and writes --out")


def given(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of each setting in argv: `--config.NAME=TEXT`, or `--config.NAME TEXT`."""
    for arg, following in pairwise([*argv, ""]):
        if match := re.fullmatch(r"--?config\.([^=]*)(?:=(.*))?", arg, re.DOTALL):
            yield match[1], following if match[2] is None else match[2]


def named_model(argv: Sequence[str]) -> str:
    """The first model that a setting in argv names; empty where none does."""
    return next((text.split(",")[0].strip() for name, text in given(argv) if name in OWN_MODELS), "")


def load(spec: str) -> ConfigDict:
    """The configuration of `FILE.py` or `FILE.py:VARIANT`."""
    written, _, variant = spec.partition(":")
    with opened(written, "--config", "is not there; the configurations that come along are in configs/") as file:
        program, path = file.read(), file.name
    namespace = {"__name__": "config", "__file__": path}
    try:
        exec(compile(program, path, "exec"), namespace)
        if not callable(get_config := namespace.get("get_config")):
            raise UserError(f"{path} defines no function get_config, as those in configs/ do")
        config = get_config(variant) if variant else get_config()
        if not isinstance(config, ConfigDict) or flatten(config).keys() != flatten(base_config()).keys():
            raise UserError(f"get_config() in {path} must return a base_config() with other values")
    except UserError as error:
        raise UserError(f"--config={spec}: {error}") from error
    except (Exception, SystemExit) as error:  # it is a program, and may fail in any way
        what = getattr(error, "msg", error)
        raise UserError(f"--config={spec}: {place_of(error, path)}: {type(error).__name__}: {what}") from error
    return config


def place_of(error: BaseException, path: str) -> str:
    """`FILE, line N` of an error in a file, as far as it is known."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}, line {lines[-1]}" if lines else path


def check_names(argv: Sequence[str]) -> None:
    """UserError names the first setting that there is not, or whose text is none for it."""
    settings = flatten(base_config())
    for match in filter(None, (re.match(r"--?(?:no)?config\.([^=]*)", arg) for arg in argv)):
        if match[1] not in settings:
            known = nearest(match[1], settings, "config.")
            raise UserError(f"--config.{brief(match[1])}: there is no such setting; {known}")
    for name, text in given(argv):
        # Python's parser, which reads a tuple, gives up on one in another, and so on, without a word.
        if isinstance(settings[name], tuple) and text.count("(") > 1:
            raise UserError(f"--config.{name}={brief(text)}: it must be {KINDS[tuple]}, such as {settings[name]}")


def override(config: ConfigDict, argv: Sequence[str]) -> None:
    """Set what the `--config.NAME=VALUE` in argv say, of which the first is ignored."""
    settings = flatten(config)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(argv))
        stray = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        given = re.match(r"flag (--config\.([^=]*)=.*?): ", str(error), re.DOTALL)
        old = settings[given[2]]
        raise UserError(f"{brief(given[1])}: it must be {KINDS[type(old)]}, such as {old}") from error
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(brief(error, 400)) from error
    if stray:
        raise UserError(f"'{stray[0]}' is not understood; every flag reads --NAME=VALUE")


def nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """What was probably meant, or where to look it up."""
    found = difflib.get_close_matches(name, known, 1)
    return (
        f"did you mean --{prefix}{found[0]}?"
        if found
        else "see --help, and vaedm_jax/config/settings.py for the settings"
    )
