"""Checkpoints of the train state, written by Orbax in the background, each with checksums that show damage."""

import errno
import hashlib
import json
import logging
import math
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from vaedm_jax.errors import RunError, UserError
from vaedm_jax.runtime import hosts
from vaedm_jax.storage import Damaged, check_form
from vaedm_jax.storage.paths import shown

# The file beside each state. Older versions wrote no digest, and the oldest no metrics ("figures") either.
PROOF = {"shapes": {str: [int]}, "checksums": [int], "figures?": {str: float}, "digest?": str}
log = logging.getLogger(__name__)


@jax.jit  # of all arrays: several programs that sum over devices could wait for each other on a CPU, as XLA runs them
def checksums(tree: Any) -> list[jax.Array]:
    """Return a weighted sum of the bits of each array, which does not depend on the number of devices."""

    def one(a: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(a, jnp.uint32).reshape(-1)
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return [one(a) for a in jax.tree.leaves(tree)]


def shapes(tree: Any) -> dict[str, list[int]]:
    """Return the shape of each array of a tree by its path."""
    return {jax.tree_util.keystr(path): list(a.shape) for path, a in jax.tree_util.tree_leaves_with_path(tree)}


def once(tree: Any) -> Any:
    """Return a tree with one copy of each array that all devices of this process hold.

    Of such an array, Orbax would let each device write a part. It would compile a program for each part.
    """

    def one(a: jax.Array) -> jax.Array:
        return a.addressable_data(0) if a.is_fully_addressable and a.is_fully_replicated else a

    return jax.tree.map(one, tree)


def check_place(folder: Path) -> None:
    """Raise UserError if something else is where the folder of checkpoints should be."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            what = "a broken link" if not place.exists() else "a file" if place.is_file() else "not a folder"
            raise UserError(f"{folder} should be a folder for checkpoints, but {place} is {what}; move it away")


def check_listing(folder: Path) -> None:
    """Raise UserError for damage that would crash or block Orbax, which handles all other damage.

    That is anything that is neither a file nor a folder, at any depth, such as a pipe, which Orbax would read forever;
    and JSON that is nested too deeply.
    """
    for place in folder.rglob("*"):
        sound = place.is_file() or place.is_dir() or not place.exists()  # it may be gone since it was listed
        if place.name == "_CHECKPOINT_METADATA" and place.is_file():
            try:
                json.loads(place.read_bytes())
            except RecursionError:
                sound = False
            except (OSError, ValueError):
                pass
        if not sound:
            step = place.relative_to(folder).parts[0]
            raise UserError(f"{shown(place)} does not belong in a checkpoint; move {shown(folder / step)} away")


def digest_proof(proof: dict[str, Any]) -> str:
    """Return a digest of the other entries of a proof, which shows damage of these."""
    text = json.dumps([proof[name] for name in ("shapes", "checksums", "figures")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one stage, in `folder`; the newest `keep` are kept.

    Attributes:
      metrics: those of the state that was saved or read last.
    """

    def __init__(self, folder: Path, keep: int = 2):
        check_place(folder)
        check_listing(folder)
        ignore_late_reads()
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options)
        self.bad: list[int] = []  # steps with damaged checkpoints
        self.metrics: dict[str, float] = {}
        self.failed = False  # whether a write has failed; Orbax's threads may then wait for each other for a long time

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def save(self, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Start to write a state and metrics of it; raise RunError if this or an earlier write has failed."""
        self._set_bad_aside()
        self.metrics = metrics or {}
        sums = [int(s) for s in jax.device_get(checksums(state))]
        proof = {"shapes": shapes(state), "checksums": sums, "figures": self.metrics}
        proof["digest"] = digest_proof(proof)
        args = ocp.args.Composite(state=ocp.args.StandardSave(once(state)), proof=ocp.args.JsonSave(proof))
        # The newest checkpoint counts. So a state whose step has one already gets the next free number: a better state
        # of steps that are repeated after a kill, or the last state of a run, once its pictures are drawn.
        number = max([int(state.step), *(step + 1 for step in self.steps())])
        self._guarded(lambda: self.manager.save(number, args=args))

    def close(self) -> None:
        """Wait until everything is written; after a failed write there is nothing to wait for."""
        if not self.failed:
            self._guarded(self.manager.close)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if not peer_died(error):
            self.close()

    def restore(self, like: Any, advice: str = "start again in another --workdir") -> Any | None:
        """Return the newest undamaged state, or None if there is no checkpoint.

        Args:
          like: a state of the same shapes (arrays or ShapeDtypeStructs), whose shardings the result has.
          advice: what to do if all checkpoints are damaged.

        Raises:
          UserError: the checkpoint has another architecture, or all checkpoints are damaged.
        """
        state = self.newest(like)
        if state is None and self.steps():
            raise UserError(f"none of the checkpoints in {self.folder} can be read; {advice}")
        return state

    def newest(self, like: Any) -> Any | None:
        """Return the newest undamaged state; None if all are damaged. Otherwise like `restore`."""
        for step in self.steps():
            try:
                return self._read(step, like)
            except Exception as error:  # a truncated file can fail in any layer of Orbax
                if isinstance(error, UserError) and not isinstance(error, Damaged):
                    raise
                log.warning(
                    "checkpoint %s/%d is damaged and is skipped (%s)",
                    self.folder,
                    step,
                    _brief(error),
                )
                self.bad.append(step)
        return None

    def _read(self, step: int, like: Any) -> Any:
        proof = self.manager.restore(step, args=ocp.args.Composite(proof=ocp.args.JsonRestore()))["proof"]
        check_form(proof, PROOF, "")
        if "digest" in proof and proof["digest"] != digest_proof(proof):
            raise ValueError("its checksums are damaged")
        if proof["shapes"] != shapes(like):
            raise UserError(
                f"the checkpoint {self.folder}/{step} has another architecture: {_difference(proof['shapes'], like)}"
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        state = self.manager.restore(step, args=args)["state"]
        if [int(s) for s in jax.device_get(checksums(state))] != proof["checksums"]:
            raise ValueError("its checksums do not match")
        self.metrics = proof.get("figures", {})
        return state

    def _set_bad_aside(self) -> None:
        """Move damaged checkpoints to the folder `corrupt`, so that their steps can be saved again."""
        for step in self.bad if jax.process_index() == 0 else ():
            target = self.folder.with_name("corrupt") / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), target)
        if self.bad:
            hosts.wait_for_all("bad checkpoints are set aside")
            self.manager.reload()
            self.bad = []

    def _guarded(self, action: Any) -> Any:
        try:
            return action()
        except Exception as error:  # Orbax reports a failed write with several types
            self.failed = True
            whole = sorted((int(p.name) for p in self.folder.glob("*") if p.name.isdigit()), reverse=True)
            kept = f"the checkpoint of step {whole[0]} is complete" if whole else "there is no earlier one"
            raise RunError(
                f"a checkpoint could not be written to {self.folder} ({_brief(error)}); {kept}. {_advice(error)}, "
                "and the same command continues"
            ) from error


class Best:
    """The state with the lowest value of a metric so far, in `folder`; "" keeps none.

    Args:
      like: as in `Checkpoints.restore`. An undamaged state of an earlier command counts.
    """

    def __init__(self, folder: Path, metric: str, like: Any):
        self.metric = metric
        self.kept = Checkpoints(folder, keep=1) if metric else None
        if self.kept:
            self.kept.newest(like)

    def consider(self, state: Any, metrics: dict[str, float]) -> None:
        """Keep a state if its metric is lower."""
        if self.kept and metrics[self.metric] < self.kept.metrics.get(self.metric, math.inf):
            self.kept.save(state, metrics)

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait until the state is written."""
        if self.kept:
            self.kept.__exit__(*error)


def peer_died(error: BaseException | None) -> bool:
    """Return whether an error means that another process has ended. What both were writing stays unfinished."""
    return isinstance(error, jax.errors.JaxRuntimeError) and not hosts.is_single()


def ignore_late_reads() -> None:
    """Suppress the tracebacks of reads that finish after another read of the same checkpoint has failed.

    Orbax closes its event loop at the first failure. TensorStore continues with the other reads, and Python would print
    a traceback for each that reports to the closed loop.
    """
    if getattr(sys.unraisablehook, "ignores_late_reads", False):
        return
    told = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)
        code = getattr(unraisable.object, "cr_code", None)  # of an abandoned coroutine
        if not (closed or (code and "orbax" in code.co_filename)):
            told(unraisable)

    def is_wanted(record: logging.LogRecord) -> bool:  # asyncio also logs the errors of tasks that nobody awaits
        return not ("never retrieved" in (text := record.getMessage()) and "orbax" in text)

    logging.getLogger("asyncio").addFilter(is_wanted)
    warnings.filterwarnings("ignore", r"coroutine '\w*Store\b.*' was never awaited", RuntimeWarning)
    hook.ignores_late_reads = True
    sys.unraisablehook = hook


FULL = ("No space left on device", "File too large", "Disk quota exceeded")


def _brief(error: Exception) -> str:
    text = str(error)
    for known in FULL:
        if known in text:
            return known
    return (text.strip() or type(error).__name__).splitlines()[0].partition(". See full")[0][:200]


def _advice(error: Exception) -> str:
    """Return what helps against a failed write."""
    if _brief(error) in FULL:
        return "Free some space"
    match getattr(error, "errno", None):
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "Make that folder writable"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return "Move away what is in its place"
        case errno.ENOENT:
            return "Leave the folder in place while the training writes to it"
    return "Fix this"


def _difference(saved: dict[str, list[int]], like: Any) -> str:
    """Return a description of the first array in which two states differ."""
    wanted = shapes(like)
    name = next(k for k in [*saved, *wanted] if saved.get(k) != wanted.get(k))
    return f"its {name} is {saved.get(name, 'missing')}, the configuration's is {wanted.get(name, 'missing')}"
