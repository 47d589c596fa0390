"""Command line. An installed package also has the command `vaedm`, which is the same as `python -m vaedm_jax.main`.

python -m vaedm_jax.main --config=emoji:form1 --workdir=DIR --mode=train
python -m vaedm_jax.main --config.data.path=PICTURES --workdir=DIR --mode=new
python -m vaedm_jax.main --workdir=DIR --mode=sample --config.sample.steps=20
python -m vaedm_jax.main --workdir=DIR --mode=evaluate --config.eval.steps=5,10,25
python -m vaedm_jax.main --workdir=DIR --mode=restore --config.restore.task=denoise --config.restore.sigma=0.2
python -m vaedm_jax.main --workdir=DIR --mode=figures
python -m vaedm_jax.main --workdir=DIR --mode=explore
python -m vaedm_jax.main --workdir=DIR --mode=prior --config.prior.kinds=flow
python -m vaedm_jax.main --workdir=DIR --mode=tune --config.sample.start=noise --config.sample.steps=3
python -m vaedm_jax.main --config=cifar10 --workdir=DIR --mode=plan --targets=tpu-v2-8,tpu-v5e-1
python -m vaedm_jax.main --config=celebamask_hq_128 --workdir=RECORDS --mode=prepare
python -m vaedm_jax.main --mode=import --from=PUBLISHED.ckpt --out=WEIGHTS.safetensors
python -m vaedm_jax.main --mode=export --from=DIR --out=FOLDER_FOR_DIFFUSERS
"""

import os
import select
import signal
import sys
import traceback

from vaedm_jax import command_line
from vaedm_jax.errors import Stopped, brief
from vaedm_jax.modes import convert, evaluate, explore, figures, new, plan, prepare, prior, restore, sample, train, tune
from vaedm_jax.runs import rundir
from vaedm_jax.runtime import failures, hosts
from vaedm_jax.runtime.setup import quiet_logs, setup
from vaedm_jax.storage.paths import shown

MODES = {
    "train": train.train,
    "sample": sample.sample,
    "evaluate": evaluate.evaluate,
    "figures": figures.figures,
    "restore": restore.restore,
    "explore": explore.explore,
    "new": new.new,
    "plan": plan.plan,
    "prepare": prepare.prepare,
    "prior": prior.fit_prior,
    "tune": tune.tune,
}
LONGEST_WORD = 400  # characters of a message that are shown of a word, such as a value that somebody gave
CONVERSIONS = {"import": convert.import_files, "export": convert.export_model}  # of files, with no run directory


def run(argv: list[str]) -> None:
    """Do what the command line asks for."""
    command = command_line.parse(argv, (*MODES, *CONVERSIONS), train.STAGES)
    if isinstance(command, str):
        print(__doc__, command, sep="\n")
        return
    mode, stage, distributed, config, workdir, source, out = command
    batch_sizes = [section.batch_size // max(1, section.microbatches) for section in (config.vae, config.ddpm)]
    setup(config.xla.deterministic, config.xla.matmul_precision, batch_sizes, distributed)
    if mode in CONVERSIONS:
        return CONVERSIONS[mode](config, source, out)
    if mode not in ("plan", "prepare"):
        rundir.refuse_inside(workdir, config)
    if mode == "train":
        return MODES[mode](config, workdir, stage or "all")
    if not (config.sample.weights or config.eval.runs or mode in command_line.BEFORE_TRAINING):
        rundir.refuse_another(workdir, config)
    MODES[mode](config, workdir)


def main(argv: list[str]) -> int:
    """Run a command and return the exit status: 0, or that of `failures.describe_error`."""
    if hasattr(sys.stdout, "reconfigure"):  # a name may hold what cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    quiet_logs()
    try:
        run(argv)
    except (Exception, KeyboardInterrupt) as error:
        if (told := failures.describe_error(error)) is None:
            raise
        message, status = told
        line = " ".join(part.strip() for part in message.splitlines())
        line = " ".join(brief(word, LONGEST_WORD) for word in line.split(" "))
        print("vaedm:", shown(line), file=sys.stderr, flush=True)
        if isinstance(error, Stopped):
            hosts.disconnect()
        return status
    return 0


def reader_is_gone() -> bool:
    """Return whether nobody reads the output any more, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always told
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_process() -> None:
    """Run the command line of this process, and end the process with its exit status."""
    try:
        status = main(sys.argv)
        sys.stdout.flush()
    except Exception as error:  # a defect; of several processes, perhaps only in what follows the end of another
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            os._exit(128 + signal.SIGPIPE)  # at once, since the end of the interpreter would flush again
        traceback.print_exc()
        status = 1 if hosts.is_single() else os.EX_SOFTWARE
    hosts.exit_process(status)


if __name__ == "__main__":
    run_process()
