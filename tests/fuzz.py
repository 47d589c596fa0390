"""A fuzzer of the command line: it runs commands with damaged, odd and sound input, and prints those that end wrongly.

python -m tests.fuzz 5000 --seed=1            # run so many cases; the exit status is 1 if one of them is wrong
python -m tests.fuzz --seed=1 --case=17       # repeat one case, print all that it says, and keep its folder
python -m tests.fuzz 500 --kinds=run,weights  # run only cases of these kinds (tests/fuzz_cases.py)

A case is a function of the seed and its number. Its command must end with status 0, 1 (it cannot go on) or 2 (its input
is wrong). With 1 or 2 it prints one line that begins with `vaedm: `, and no traceback. With 2 it has changed nothing.
It must end in time and within the memory. The cases run in a child process, since they may crash or hang it. Functions
that take long to compile are only traced, and return noise of the traced shapes.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import resource
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.xla import quick_xla

ROOT = Path(__file__).parents[1]
MEMORY, PATIENCE, MOST_CPU = 3 * 2**30, 60, 20  # bytes above those at the start; wall seconds; CPU seconds
LONGEST = 3000  # characters of an error
# The files of the user, which no case may change.
OWN = ("tiny.py", "odd.py", "published.py", "images", "weights.safetensors", "prior.npz", "published.ckpt")
TINY = """from tests.tiny import tiny_config
def get_config(variant="form1"):
    return tiny_config(variant, **{"ddpm.patch": 1})
"""
PUBLISHED = """from vaedm_jax.config import published_config
def get_config(variant="form1"):
    return published_config(variant)
"""


class Outcome(NamedTuple):
    """How a command ended. `status` is None if it raised an exception that `main` does not expect."""

    status: int | None
    said: str
    traceback: str
    changed: list[str]
    seconds: float


def problem(outcome: Outcome, sound: bool, owned: list[str]) -> str:
    """Return what is wrong with the way a command ended, or an empty string if nothing is.

    Args:
      sound: nothing was damaged, so the command must succeed.
      owned: the files of the user that have changed.
    """
    status, said, trace, changed, seconds = outcome
    lines = [line for line in said.split("\n") if line.startswith("vaedm: ") and "is skipped" not in line]
    if status is None:
        return f"raised {trace.splitlines()[0][:300]}"
    if "Traceback" in said:
        return "printed a traceback"
    if status not in (0, 1, 2):
        return f"ended with {status}"
    if sound and status:
        return f"refused what is sound: {said[-300:]}"
    if status and (len(lines) != 1 or not said.endswith(lines[0] + "\n")):
        return f"ended with {status} and {len(lines)} lines: {said[-300:]!r}"
    if status and (len(lines[0]) > LONGEST or len(lines[0]) < 15 or not lines[0].isprintable()):
        return f"ended with {status} and a line of {len(lines[0])} characters: {lines[0][:300]!r}"
    if status == 2 and changed:
        return f"was refused, and changed {', '.join(changed[:5])}: {lines[0][:300]}"
    if owned:
        return f"changed {', '.join(owned[:5])}, which is the user's"
    if seconds > MOST_CPU:
        return f"took {seconds:.0f} s of the CPU"
    return ""


def looks(folder: Path) -> dict[str, Any]:
    """Return what is at each path in a folder: a digest of a file, the target of a link, the type of anything else."""

    def look(path: Path) -> Any:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return os.readlink(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else stat.S_IFMT(mode)

    found = (Path(at) / name for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return {str(path.relative_to(folder)): look(path) for path in found}


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Replace compiled functions by functions that return noise of the traced shapes, and skip training."""
    import jax
    import numpy as np

    from vaedm_jax import api
    from vaedm_jax.data import shards
    from vaedm_jax.modes import prepare, train
    from vaedm_jax.sampling import engine

    def traced(function: Any) -> Any:
        def noise(shape: Any) -> np.ndarray:
            return np.random.default_rng(0).random(shape.shape, np.float32)

        return lambda *inputs: jax.tree.map(noise, function.eval_shape(*inputs))

    def work(tasks: list, processes: int) -> Iterator[int]:
        shards.counted = count = get_context("spawn").Value("q", 0)  # as a worker process would begin
        for task in tasks:
            shards.write_shard(*task)
            yield count.value

    with contextlib.ExitStack() as stack:
        for name in ("bound_terms", "decode", "encode", "posterior", "shown_x_hat", "draw_prior"):
            stack.enter_context(patch.object(api, name, traced(getattr(api, name))))
        stack.enter_context(patch.object(engine, "generate", traced(engine.generate)))
        stack.enter_context(patch.object(train, "fit", lambda *_: SimpleNamespace(average={})))
        stack.enter_context(patch.object(prepare, "work", work))
        yield


def command(arguments: list[str]) -> tuple[int | None, str, str]:
    """Run a command. Return its status, what it printed on stderr, and the traceback of an exception."""
    from vaedm_jax.main import main

    said, told = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=how) for how in ("backslashreplace", "strict"))
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
        try:
            status, trace = main(["main", *arguments]), ""
        except BaseException as error:
            status, trace = None, f"{type(error).__name__}: {error!s:.300}\n{traceback.format_exc()}"
        said.flush()
    return status, said.buffer.getvalue().decode(), trace


def sound(folder: Path) -> None:
    """Fill a folder with sound input of all kinds: a run, weights, a prior, images and a published checkpoint."""
    import jax
    import numpy as np
    from PIL import Image

    from tests.fuzz_cases import USES
    from tests.tiny import random_params, tiny_config
    from vaedm_jax import api
    from vaedm_jax.interop import names, torch_writer
    from vaedm_jax.reporting import MetricWriter
    from vaedm_jax.training.checkpoints import Checkpoints
    from vaedm_jax.training.stages import ddpm_stage, vae_stage
    from vaedm_jax.training.state import create_state

    (folder / "images").mkdir(parents=True)
    (folder / "tiny.py").write_text(TINY)
    (folder / "published.py").write_text(PUBLISHED)
    rng = np.random.default_rng(0)
    for i in range(10):
        name = f"{i}.png" if i % 2 else f"{i}.jpg"
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / "images" / name)

    def must(arguments: str) -> None:
        status, said, trace = command(arguments.format(folder=folder).split())
        assert status == 0, said + trace

    run = f"--workdir={folder}/run"
    must(f"{run} --config={folder}/tiny.py")
    config = tiny_config(**{"ddpm.patch": 1})
    stages = [vae_stage(config), ddpm_stage(config, {})]
    params = [random_params(stage) for stage in stages]
    for stage, own in zip(stages, params, strict=True):
        state = jax.jit(lambda own, settings=stage.settings: create_state(own, settings))(own)
        for part in ("checkpoints", "best")[: 1 + (stage.name == "ddpm")]:
            with contextlib.closing(Checkpoints(folder / "run" / stage.name / part)) as checkpoints:
                checkpoints.save(state.replace(step=state.step + 6), {"held_out_loss": 1.0})
        with contextlib.closing(MetricWriter(folder / "run" / stage.name)) as metrics:
            for step in (2, 4, 6):
                metrics.write(step, {"loss": 1 / step, "held_out_loss": 2 / step})
    api.VAEDM.from_run(folder / "run").save(folder / "weights.safetensors")
    must(f"{run} --mode=prior --config.prior.kinds=diag --config.prior.components=1 --config.data.held_out=0.05")
    (folder / "run" / "prior.npz").rename(folder / "prior.npz")
    must(f"{run} {USES[3]} --config.eval.keep_images=True --config.eval.bits=2")
    state = {f"target_network.decoder.{n}": a for n, a in names.to_torch(params[1], names.UNET).items()}
    state |= {f"vae.{name}": a for name, a in names.to_torch(params[0], names.VAE).items()}
    blocks = {f"{name}_block_str": config.vae[f"{name}_block"] for name in ("enc", "dec")}
    hyper = blocks | {f"{name}_channel_str": config.vae.channels for name in ("enc", "dec")} | {"lr": 1e-4}
    (folder / "published.ckpt").write_bytes(lightning(torch_writer.encode(state), hyper))


def lightning(encoded: bytes, hyper: dict[str, Any]) -> bytes:
    """Return a file of torch.save with a state dict and hyper-parameters, in the form in which Lightning saves them."""
    out, value = io.BytesIO(), lambda x: pickle.dumps(x, 2)[2:-1]
    with zipfile.ZipFile(io.BytesIO(encoded)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                inside = value("state_dict") + data[2:-1] + value("hyper_parameters") + value(hyper)
                data = b"\x80\x02}(" + inside + b"u."
            new.writestr(name, data)
    return out.getvalue()


def attempt(
    base: Path, folder: Path, seed: int, number: int, kinds: list[str], tell: Callable[[dict], None]
) -> dict[str, Any]:
    """Run a case in a fresh folder. Return what it was, how it ended, and what is wrong with that.

    `tell` is called with a description of the case before the command runs.
    """
    from tests.fuzz_cases import KINDS, SHARES

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    rng = Random(f"{seed}/{number}")
    kind = rng.choices(kinds, [SHARES[k] for k in kinds])[0]
    arguments = [argument.replace("{folder}", str(folder)) for argument in KINDS[kind](rng, folder)]
    os.chdir(folder)
    before, began = looks(folder), time.process_time()
    shown = [a.replace(str(folder), "{folder}")[:500] for a in arguments]
    about = {"number": number, "kind": kind, "arguments": shown}
    tell(about)
    status, said, trace = command(arguments)
    after = looks(folder)
    changed = sorted(n for n in {**before, **after} if before.get(n) != after.get(n))
    outcome = Outcome(status, said, trace, changed, time.process_time() - began)
    asked = "--workdir={folder}/images" in shown  # such a run adds files beside the images, but changes none
    lost = [n for n in changed if n.split("/")[0] in OWN and (n in before or not asked)]
    wrong = problem(outcome, kind == "untouched", lost)
    if (folder / "ran").exists():
        wrong = "ran a command of a file's"
    about |= {"status": status, "wrong": wrong}
    return about | {"said": said[-3000:], "traceback": trace[-6000:], "changed": changed, "seconds": outcome.seconds}


def serve(work: Path, seed: int, kinds: list[str]) -> None:
    """Run cases as the child process: read their numbers line by line, and write how each case ended."""
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    base = work / "sound"

    def tell(about: dict[str, Any]) -> None:
        print(json.dumps(about), file=out, flush=True)

    with quick():
        if not base.is_dir():
            sound(work / "folder")
            shutil.copytree(work / "folder", base)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            tell(attempt(base, work / "folder", seed, int(line), kinds, tell))


class Child:
    """A process that runs cases. If it crashes or hangs, the next case starts another one."""

    def __init__(self, work: Path, seed: int, kinds: list[str]):
        self.log = work / "log"
        self.start = [sys.executable, "-m", "tests.fuzz", "--serve", str(work), f"--seed={seed}"]
        self.start.append(f"--kinds={','.join(kinds)}")
        (work / "home").mkdir(exist_ok=True)
        self.environment = os.environ | quick_xla() | {"JAX_PLATFORMS": "cpu", "HOME": str(work / "home")}
        self.environment |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(work / "cache"))
        self.process: subprocess.Popen | None = None
        self.unread = b""  # output that was read but not used yet: several lines may come at once

    def run(self, number: int) -> dict[str, Any]:
        if self.process is None:
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            with open(self.log, "w") as log:
                self.process = subprocess.Popen(self.start, cwd=ROOT, env=self.environment, stderr=log, **pipes)
            self.unread = b""
            if not self.answer(300):
                raise RuntimeError(f"the fuzzer cannot begin: {self.log.read_text()[-3000:]}")
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        about = json.loads(self.answer(PATIENCE) or "{}")
        if line := self.answer(PATIENCE):
            return json.loads(line)
        hangs = self.process.poll() is None
        self.process.kill()
        said, status = self.log.read_text()[-3000:], self.process.wait()
        self.process = None
        wrong = f"did not end within {PATIENCE} s" if hangs else f"crashed the process ({status})"
        return {"number": number, "kind": "?", "arguments": []} | about | {"status": None, "wrong": wrong, "said": said}

    def answer(self, seconds: float) -> str:
        """Return a line from the child, or an empty string if it ends or does not answer in time."""
        pipe, until = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self.unread:
            ready, _, _ = select.select([pipe], [], [], max(0, until - time.monotonic()))
            if not ready or not (more := os.read(pipe, 2**16)):
                return ""
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def end(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait(60)


def fuzz(numbers: range, seed: int, kinds: list[str], work: Path) -> Iterator[dict[str, Any]]:
    """Yield how each case ended; see `attempt`."""
    child = Child(work, seed, kinds)
    try:
        for number in numbers:
            yield child.run(number)
    finally:
        child.end()


def report(found: dict[str, Any], seed: int, kinds: str = "") -> str:
    """Return a few lines that say what is wrong with a case and how to repeat it."""
    again = f"python -m tests.fuzz --seed={seed} --case={found['number']}" + (f" --kinds={kinds}" if kinds else "")
    return f"case {found['number']} ({found['kind']}) {found['wrong']}\n  {found['arguments']}\n  again: {again}"


def main() -> int:
    from tests.fuzz_cases import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    kinds = asked.kinds.split(",") if asked.kinds else list(KINDS)
    if asked.serve:
        serve(Path(asked.serve), asked.seed, kinds)
        return 0
    work, bad, ended = Path(tempfile.mkdtemp(prefix="vaedm_fuzz_")), 0, Counter()
    numbers = range(asked.cases) if asked.case is None else range(asked.case, asked.case + 1)
    for found in fuzz(numbers, asked.seed, kinds, work):
        ended[f"{found['kind']} {found['status']}"] += 1
        bad += bool(found["wrong"])
        if found["wrong"]:
            print(report(found, asked.seed, asked.kinds), flush=True)
        if asked.case is not None:
            print(*(f"{name}: {value}" for name, value in found.items()), f"its folder: {work}/folder", sep="\n")
    print(f"{len(numbers)} cases of seed {asked.seed}, {bad} wrong; by kind and status: {dict(sorted(ended.items()))}")
    if asked.case is None:
        shutil.rmtree(work)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
