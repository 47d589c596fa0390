"""Parsing of the command line into a mode, a run directory and a configuration. Invalid arguments are UserErrors."""

import difflib
import os
import re
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from vaedm_jax.config import base_config, flatten, published_config, trust
from vaedm_jax.config.checks import check_length
from vaedm_jax.config.named import named_configs
from vaedm_jax.errors import UserError, brief
from vaedm_jax.runs import rundir
from vaedm_jax.runs.weights import read_model_config
from vaedm_jax.storage.paths import folder, opened, resolve_path

# Settings that name models. If one is set, the run directory needs no model. The first model gives the configuration.
OWN_MODELS = ("sample.weights", "eval.runs", "ddpm.init")
# Modes that convert --from into --out without a run directory, with the function that returns their defaults.
FILES = {"import": published_config, "export": base_config}
BEFORE_TRAINING = ("new", "plan", "prepare")  # modes whose run directory need not hold a run
# Flags that only some modes accept, with these modes.
BELONGS = {
    "stage": ("train",),
    "distributed": ("train", "sample", "evaluate"),  # several processes can share the work of these modes
    "targets": ("plan",),
    "from": tuple(FILES),
    "out": tuple(FILES),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple of whole numbers"}


class Command(NamedTuple):
    """A parsed command line.

    Attributes:
      mode: the name of the mode.
      stage: the stage to train; None if it is not given.
      distributed: how to connect to the other processes; None for a single process.
      config: the configuration.
      workdir: the run directory; None for the modes of FILES.
      source, out: the arguments of --from and --out; None for the other modes.
    """

    mode: str
    stage: str | None
    distributed: str | None
    config: ConfigDict
    workdir: Path | None
    source: str | None
    out: str | None


def define_flags(modes: Collection[str], stages: Collection[str]) -> flags.FlagValues:
    """Return all flags except the settings."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    flags.DEFINE_enum("stage", None, stages, "Which stages to train (default: all).", flag_values=values)
    flags.DEFINE_string("targets", None, "Accelerators to plan for, such as tpu-v2-8,tpu-v5e-1.", flag_values=values)
    flags.DEFINE_string(
        "distributed", None, "The place of this process among several that train, sample or evaluate together: "
        "K/N@HOST:PORT is process K of N, counted from 0; 'auto' asks Slurm, Open MPI, Kubernetes or the TPU pod.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "from", None, "What to convert: PyTorch files or folders of diffusers, separated by commas; for export a run "
        "directory or weights.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "out", None, "What modes import and export write: a file of weights; for PyTorch a file that ends in .pt; for "
        "diffusers a folder, whose name has no ending.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("workdir", None, "Run directory. It is created if it does not exist.", flag_values=values)
    flags.DEFINE_string(
        "config", None, "Configuration: a name, such as cifar10, or a file, such as FILE.py; both may end in :VARIANT. "
        "Default: the configuration of the weights or runs that a setting names, or else of the run in --workdir. "
        "--config.NAME=VALUE changes a setting; vaedm_jax/config/settings.py lists all settings.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)
    return values


def parse(argv: Sequence[str], modes: Collection[str], stages: Collection[str]) -> Command | str:
    """Return the command of a command line, or the help text if --help is given.

    Args:
      argv: the program's name, then the arguments.
      modes, stages: the values that --mode and --stage may have.

    Raises:
      UserError: an argument, the run directory or the configuration is invalid.
    """
    values = define_flags(modes, stages)
    try:
        # The settings after --config. can be parsed only when the configuration is known.
        rest = values(argv, known_only=True)
    except (flags.Error, ValueError) as error:
        raise UserError(str(error).removeprefix("flag ")) from error
    if values.help:
        return values.module_help(__name__)
    unknown = [match[1] for arg in rest if (match := re.match(r"--?(?!(?:no)?config\.)([A-Za-z][^=]*)", arg))]
    if unknown:
        raise UserError(f"--{unknown[0]}: there is no such flag; {suggest(unknown[0], list(values))}")
    check_belonging(values)
    workdir = None
    if values.mode in FILES:
        check_files(values)
    else:
        workdir = run_directory(values.workdir)
    check_names(rest)
    config = initial_config(values.mode, values.config, workdir, named_model(rest))
    override(config, rest)
    if values.config is None and values.mode not in FILES:
        named = {match[1] for arg in rest if (match := re.match(r"--?config\.([^=]*)", arg))}
        trust.check_borrowed(flatten(config), named_model(rest) or str(workdir / rundir.FILE), named)
    if values.targets is not None:
        config.plan.targets = values.targets
    return Command(values.mode, values.stage, values.distributed, config, workdir, values["from"].value, values.out)


def initial_config(mode: str, spec: str | None, workdir: Path | None, model: str) -> ConfigDict:
    """Return the configuration before the settings of the command line change it.

    It is the first that is available of: that of --config, the default of a mode of FILES, that of a named model, and
    that of the run.

    Args:
      mode: the mode.
      spec: the argument of --config.
      workdir: the run directory; None for the modes of FILES.
      model: the model that a setting names; "" for none.

    Raises:
      UserError: there is no configuration, or it is invalid.
    """
    if spec is not None:
        config = load(spec)
        if workdir:
            rundir.keep_old_meaning(config, workdir)
        return config
    if mode in FILES:
        return FILES[mode]()
    if model:
        return read_model_config(model)
    if mode == "new":
        return load("own")
    if mode in BEFORE_TRAINING and not (workdir / rundir.FILE).is_file():
        raise UserError(f"--config=NAME is missing: mode '{mode}' needs a configuration, such as cifar10")
    return rundir.read_config(workdir)


def run_directory(workdir: str | None) -> Path:
    """Return the path of the run directory; raise UserError if it is missing or no folder can be there."""
    if not workdir:
        raise UserError("--workdir=DIR is missing: it must name the run directory")
    path = resolve_path(workdir, "--workdir")
    folder(next(p for p in (path, *path.parents) if os.path.lexists(p)), "--workdir")
    return path


def check_belonging(values: flags.FlagValues) -> None:
    """Raise UserError for the first flag that the mode does not accept."""
    for name, modes in BELONGS.items():
        if values[name].value is not None and values.mode not in modes:
            raise UserError(
                f"--{name}={values[name].value} is only for --mode={' or '.join(modes)}; leave it out with "
                f"--mode={values.mode}"
            )


def check_files(values: flags.FlagValues) -> None:
    """Raise UserError unless --from and --out are given, and --workdir is not."""
    if values.workdir is not None:
        raise UserError(
            f"--workdir={values.workdir}: mode '{values.mode}' has no run directory; leave --workdir out, and name "
            "what is read with --from and what is written with --out"
        )
    for name in ("from", "out"):
        if not values[name].value:
            raise UserError(f"--{name}=FILE is missing: mode '{values.mode}' reads --from and writes --out")


def given_settings(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for each setting in argv: `--config.NAME=TEXT` or `--config.NAME TEXT`."""
    for arg, following in pairwise([*argv, ""]):
        if match := re.fullmatch(r"--?config\.([^=]*)(?:=(.*))?", arg, re.DOTALL):
            yield match[1], following if match[2] is None else match[2]


def named_model(argv: Sequence[str]) -> str:
    """Return the first model that a setting in argv names; "" if there is none. The last value of a setting counts."""
    models = (text.split(",")[0].strip() for name, text in dict(given_settings(argv)).items() if name in OWN_MODELS)
    return next(filter(None, models), "")


def load(spec: str) -> ConfigDict:
    """Return the configuration of a name or a file; `:VARIANT` may follow.

    Raises:
      UserError: the file is missing, fails, or returns no configuration of this package. The message names the line.
    """
    written, _, variant = spec.partition(":")
    known = named_configs()
    missing = f"is not there; give a file, or one of {', '.join(known)}"
    with opened(known.get(written, written), "--config", missing) as file:
        program, path = file.read(), file.name
    namespace = {"__name__": "config", "__file__": path}
    try:
        exec(compile(program, path, "exec"), namespace)
        if not callable(get_config := namespace.get("get_config")):
            raise UserError(f"{path} defines no function get_config, as those of this project do")
        config = get_config(variant) if variant else get_config()
        if not isinstance(config, ConfigDict) or flatten(config).keys() != flatten(base_config()).keys():
            raise UserError(f"get_config() in {path} must return a base_config(), in which only values are changed")
        for name, value in flatten(config).items():
            check_length(name, value)
    except UserError as error:
        raise UserError(f"--config={spec}: {error}") from error
    except (Exception, SystemExit) as error:  # the file is a program, which may raise any error
        what = getattr(error, "msg", error)
        raise UserError(f"--config={spec}: {locate_error(error, path)}: {type(error).__name__}: {what}") from error
    return config


def locate_error(error: BaseException, path: str) -> str:
    """Return the place of an error in a file as `FILE, line N`, or as `FILE` if the line is unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}, line {lines[-1]}" if lines else path


def check_names(argv: Sequence[str]) -> None:
    """Raise UserError for the first setting that does not exist, or that is a tuple with a nested tuple."""
    settings = flatten(base_config())
    for arg in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", arg)
        if match and match[1] not in settings:
            known = suggest(match[1], settings, "config.")
            raise UserError(f"--config.{brief(match[1])}: there is no such setting; {known}")
    for name, text in given_settings(argv):
        # Python's parser, which reads tuples, fails without a message on deeply nested ones.
        if isinstance(settings[name], tuple) and text.count("(") > 1:
            raise UserError(f"--config.{name}={brief(text)}: it must be {KINDS[tuple]}, such as {settings[name]}")


def override(config: ConfigDict, argv: Sequence[str]) -> None:
    """Change the settings that argv gives as `--config.NAME=VALUE`.

    Args:
      config: the configuration, which is changed.
      argv: the program's name, which is ignored, then the arguments.

    Raises:
      UserError: a value has the wrong type, or an argument is not a flag.
    """
    settings = flatten(config)
    argv = without_earlier_tuples(argv, settings)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(argv))
        stray = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag (--config\.([^=]*)=.*?): ", str(error), re.DOTALL)
        old = settings[found[2]]
        raise UserError(f"{brief(found[1])}: it must be {KINDS[type(old)]}, such as {old}") from error
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(brief(error, 400)) from error
    if stray:
        raise UserError(f"'{stray[0]}' is not a flag; every argument must have the form --NAME=VALUE")


def without_earlier_tuples(argv: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Return argv with only the last of several values for a tuple, since the parser would join them.

    Args:
      argv: the arguments.
      settings: {full name: value}.
    """
    places: dict[str, list[set[int]]] = {}
    for i, arg in enumerate(argv):
        match = re.fullmatch(r"--?config\.([^=]*)(=.*)?", arg, re.DOTALL)
        if match and isinstance(settings.get(match[1]), tuple):
            places.setdefault(match[1], []).append({i} if match[2] else {i, i + 1})
    earlier = set().union(*(place for of in places.values() for place in of[:-1]))
    return [arg for i, arg in enumerate(argv) if i not in earlier]


def suggest(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a hint for a message about an unknown name.

    Args:
      name: the unknown name.
      known: the known names, of which the most similar is suggested.
      prefix: what stands before a name on the command line, such as "config.".
    """
    found = difflib.get_close_matches(name, known, 1)
    return (
        f"did you mean --{prefix}{found[0]}?"
        if found
        else "see --help, and vaedm_jax/config/settings.py for the settings"
    )
