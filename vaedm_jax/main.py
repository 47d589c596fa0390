"""Command line.

python -m vaedm_jax.main --config=configs/emoji.py:form1 --workdir=DIR --mode=train
python -m vaedm_jax.main --workdir=DIR --mode=sample --config.sample.steps=20
python -m vaedm_jax.main --workdir=DIR --mode=evaluate --config.eval.steps=5,10,25
python -m vaedm_jax.main --workdir=DIR --mode=restore --config.restore.task=denoise --config.restore.sigma=0.2
python -m vaedm_jax.main --workdir=DIR --mode=figures
python -m vaedm_jax.main --workdir=DIR --mode=explore
python -m vaedm_jax.main --config=configs/cifar10.py --workdir=DIR --mode=plan --targets=tpu-v2-8,tpu-v5e-1
python -m vaedm_jax.main --config=configs/celebamask_hq_128.py --workdir=RECORDS --mode=prepare
"""

import errno
import logging
import os
import sys
from pathlib import Path

import jax

from vaedm_jax import evaluate, explore, figures, flags, hosts, plan, prepare, restore, rundir, sample, train
from vaedm_jax.errors import RunError, UserError
from vaedm_jax.mesh import keep_memory, share_cpu
from vaedm_jax.reporting.files import leave_to_another

MODES = {
    "train": train.train,
    "sample": sample.sample,
    "evaluate": evaluate.evaluate,
    "figures": figures.figures,
    "restore": restore.restore,
    "explore": explore.explore,
    "plan": plan.plan,
    "prepare": prepare.prepare,
}
TOGETHER = ("train", "sample", "evaluate")  # modes that several processes can share
LESS_MEMORY = (
    "training takes less with --config.ddpm.microbatches=2, .remat=True or .precision=bfloat16 (the VAE alike), "
    "sampling with a smaller --config.sample.batch_size"
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(argv: list[str]) -> None:
    """Do what the command line asks for."""
    command = flags.parse(argv, MODES, train.STAGES)
    if isinstance(command, str):
        print(__doc__, command, sep="\n")
        return
    mode, stage, distributed, config, workdir = command
    keep_memory()
    if distributed:
        if mode not in TOGETHER:
            raise UserError(f"--distributed: mode '{mode}' is for one process; leave it out")
        hosts.join(distributed)
        if jax.process_index():
            leave_to_another()
            sys.stdout = open(os.devnull, "w")
    else:
        share_cpu(*(section.batch_size // max(1, section.microbatches) for section in (config.vae, config.ddpm)))
    if mode == "train":
        return MODES[mode](config, workdir, stage or "all")
    if stage:
        raise UserError(f"--stage={stage} belongs to --mode=train; leave it out with --mode={mode}")
    if not (config.sample.weights or config.eval.runs or mode in ("plan", "prepare")):
        rundir.refuse_another(workdir, config)
    MODES[mode](config, workdir)


def main(argv: list[str]) -> int:
    """Run a command and return the exit status.

    0: done. 1: the run cannot go on. 2: bad input. 130: Ctrl-C. After 143 (SIGTERM) and 75 (another process has ended)
    the same command continues, as it does after a kill.
    """
    logging.basicConfig(format="vaedm: %(message)s", force=True)
    for noisy in ("absl", "asyncio"):  # Orbax's threads print the traceback of what is raised here too
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache" / "vaedm_jax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        run(argv)
    except (UserError, RunError) as error:
        return fail(str(error), error.status)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        full = error.errno in FULL
        advice = "; free some space, and the same command continues" if full else ""
        return fail(f"{error.filename or 'disk'}: {error.strerror}{advice}", 1 if full else 2)
    except jax.errors.JaxRuntimeError as error:
        what = ": ".join(dict.fromkeys(str(error).partition("\n")[0].split(": ")))
        if "RESOURCE_EXHAUSTED" in what:
            return fail(f"the device's memory is full ({what}); {LESS_MEMORY}", 1)
        if hosts.alone():
            raise
        return fail(f"{hosts.GONE} ({what})", os.EX_TEMPFAIL)
    return 0


def fail(message: str, status: int) -> int:
    print("vaedm:", *message.split(), file=sys.stderr)
    return status


if __name__ == "__main__":
    hosts.leave(main(sys.argv))
