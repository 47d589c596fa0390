"""Command line: `python -m vaedm_jax.main --config=configs/emoji.py:form1 --workdir=DIR --mode=train|sample`."""

import errno
import os
import sys
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import config_flags

from vaedm_jax import rundir, sample, train
from vaedm_jax.errors import RunError, UserError

MODES = {"train": train.train, "sample": sample.sample}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def parse(argv: list[str]) -> tuple[str, Path, dict]:
    """The mode, the work directory and what the mode is called with. UserError for anything that is not understood."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    flags.DEFINE_enum("stage", "all", train.STAGES, "Which stages to train.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's directory.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    workdir = next((a.split("=", 1)[1] for a in argv if a.startswith(("--workdir=", "-workdir="))), None)
    try:
        if any(a.lstrip("-").startswith("config=") or a.lstrip("-") == "config" for a in argv):
            config = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
        elif workdir and "help" not in " ".join(argv):
            # A run directory explains itself: later commands need no --config.
            config = config_flags.DEFINE_config_dict("config", rundir.read_config(Path(workdir)), flag_values=values)
        rest = values(argv)
        if values.help:
            print(__doc__, values.main_module_help(), sep="\n")
            sys.exit(0)
        if rest[1:]:
            raise UserError(f"'{rest[1]}' is not understood; every flag reads --name=value")
        if not values.workdir:
            raise UserError("--workdir=DIR is missing: the directory of the run")
    except (
        flags.Error,
        OSError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        SyntaxError,
        ImportError,
    ) as error:
        raise UserError(" ".join(str(error).split())) from error
    arguments = {"config": config.value, "workdir": Path(values.workdir)}
    return values.mode, arguments | ({"stage": values.stage} if values.mode == "train" else {})


def main(argv: list[str]) -> int:
    """Run one mode and return the exit status: 0, 1 where a run cannot go on, 2 for bad input."""
    logging.set_verbosity(logging.ERROR)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache" / "vaedm_jax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        mode, arguments = parse(argv)
        MODES[mode](**arguments)
    except (UserError, RunError) as error:
        print(f"vaedm: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(
            f"vaedm: {error.filename}: {error.strerror}; free some space, and the same command continues",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
