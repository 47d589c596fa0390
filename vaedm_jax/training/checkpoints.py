"""Checkpoints of the whole train state by Orbax, written in the background, each with the sums that prove it whole."""

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
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.paths import shown

# What is written beside each state; the figures and the digest of it came later than the rest.
PROOF = {"shapes": {str: [int]}, "checksums": [int], "figures?": {str: float}, "digest?": str}
log = logging.getLogger(__name__)


@jax.jit
def checksums(tree: Any) -> list[jax.Array]:
    """A sum of the bits of every array, weighted by their place: the same on any number of devices."""

    def one(a: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(a, jnp.uint32).reshape(-1)
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return [one(a) for a in jax.tree.leaves(tree)]


def shapes(tree: Any) -> dict[str, list[int]]:
    return {jax.tree_util.keystr(path): list(a.shape) for path, a in jax.tree_util.tree_leaves_with_path(tree)}


def check_place(folder: Path) -> None:
    """UserError where something else stands where a folder of checkpoints should be."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            what = "a link that leads nowhere" if not place.exists() else "a file" if place.is_file() else "no folder"
            raise UserError(f"{folder} should be a folder for checkpoints, but {place} is {what}; move it away")


def check_listing(folder: Path) -> None:
    """UserError names what would end or stop Orbax: it copes with other damage.

    That is what is neither a file nor a folder, at any depth, such as a pipe, from which it would wait for ever; and
    JSON of a step that is nested very deeply.
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
            raise UserError(f"{shown(place)} is not what a checkpoint has there; move {shown(folder / step)} away")


def digest_of(proof: dict[str, Any]) -> str:
    """Return what tells a proof from a damaged one."""
    text = json.dumps([proof[name] for name in ("shapes", "checksums", "figures")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one stage, in `folder`; the newest `keep` are kept.

    Attributes:
      figures: those that were saved with the state that was saved or read last.
    """

    def __init__(self, folder: Path, keep: int = 2):
        check_place(folder)
        check_listing(folder)
        ignore_late_reads()
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options)
        self.bad: list[int] = []  # steps whose checkpoints were passed over
        self.figures: dict[str, float] = {}
        self.failed = False  # a write has; Orbax's threads may then wait for each other for a long time

    def steps(self) -> list[int]:
        """Steps that there is a checkpoint of, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def save(self, state: Any, figures: dict[str, float] | None = None) -> None:
        """Begin to write the state and figures of it; an error of this or an earlier write is a RunError."""
        self._set_bad_aside()
        self.figures = figures or {}
        sums = [int(s) for s in jax.device_get(checksums(state))]
        proof = {"shapes": shapes(state), "checksums": sums, "figures": self.figures}
        proof["digest"] = digest_of(proof)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), proof=ocp.args.JsonSave(proof))
        # A best state may lie ahead of where a killed run goes on. One that beats it at or before its step takes the
        # next number instead of its own, since the newest counts.
        number = max([int(state.step), *(step + 1 for step in self.steps())])
        self._guarded(lambda: self.manager.save(number, args=args))

    def close(self) -> None:
        """Wait until all is written; after a failed write there is nothing to wait for."""
        if not self.failed:
            self._guarded(self.manager.close)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if not peer_died(error):
            self.close()

    def restore(self, like: Any, advice: str = "begin anew in another --workdir") -> Any | None:
        """The newest state that is whole, or None where there is no checkpoint.

        Args:
          like: a state of the same shape (arrays or ShapeDtypeStructs), whose shardings the result has.
          advice: what to do where none is whole.
        Raises: UserError where the checkpoint is of another architecture, or none of several is whole.
        """
        state = self.newest(like)
        if state is None and self.steps():
            raise UserError(f"none of the checkpoints in {self.folder} can be read; {advice}")
        return state

    def newest(self, like: Any) -> Any | None:
        """As `restore`, but None also where no checkpoint is whole."""
        for step in self.steps():
            try:
                return self._read(step, like)
            except Exception as error:  # a torn file can fail in any of Orbax's layers
                if isinstance(error, UserError) and not isinstance(error, Damaged):
                    raise
                log.warning(
                    "checkpoint %s/%d is torn or corrupt and is passed over (%s)",
                    self.folder,
                    step,
                    _brief(error),
                )
                self.bad.append(step)
        return None

    def _read(self, step: int, like: Any) -> Any:
        proof = read_json(self.folder / str(step) / "proof" / "metadata", PROOF, nan=True)
        if proof.get("digest") not in (None, digest_of(proof)):  # those of before have none
            raise ValueError("its proof is damaged")
        if proof["shapes"] != shapes(like):
            raise UserError(
                f"the checkpoint {self.folder}/{step} is of another architecture: {_difference(proof['shapes'], like)}"
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        state = self.manager.restore(step, args=args)["state"]
        if [int(s) for s in jax.device_get(checksums(state))] != proof["checksums"]:
            raise ValueError("its checksums do not match")
        self.figures = proof.get("figures", {})
        return state

    def _set_bad_aside(self) -> None:
        """Move bad checkpoints out of the manager's sight, lest they stand in the way of good ones of their steps."""
        for step in self.bad if jax.process_index() == 0 else ():
            target = self.folder.with_name("corrupt") / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), target)
        if self.bad:
            hosts.meet("bad checkpoints are set aside")
            self.manager.reload()
            self.bad = []

    def _guarded(self, action: Any) -> Any:
        try:
            return action()
        except Exception as error:  # Orbax hands a failed write on in several types
            self.failed = True
            whole = sorted((int(p.name) for p in self.folder.glob("*") if p.name.isdigit()), reverse=True)
            kept = f"the checkpoint of step {whole[0]} is whole" if whole else "there is no earlier one"
            raise RunError(
                f"a checkpoint could not be written to {self.folder} ({_brief(error)}); {kept}. {_advice(error)}, "
                "and the same command continues"
            ) from error


class Best:
    """The state with the lowest of a figure so far, in `folder`; none where the figure has no name.

    Args:
      like: as in `Checkpoints.restore`. A state that lies there already is to be beaten if it is whole.
    """

    def __init__(self, folder: Path, figure: str, like: Any):
        self.figure = figure
        self.kept = Checkpoints(folder, keep=1) if figure else None
        if self.kept:
            self.kept.newest(like)

    def consider(self, state: Any, figures: dict[str, float]) -> None:
        """Keep a state instead, if it is better."""
        if self.kept and figures[self.figure] < self.kept.figures.get(self.figure, math.inf):
            self.kept.save(state, figures)

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait until it is written."""
        if self.kept:
            self.kept.__exit__(*error)


def peer_died(error: BaseException | None) -> bool:
    """Return whether an error tells that another process has ended: what both have begun to write stays unfinished."""
    return isinstance(error, jax.errors.JaxRuntimeError) and not hosts.alone()


def ignore_late_reads() -> None:
    """Keep quiet of reads that end after another of the same checkpoint has failed.

    Orbax closes its event loop at the first that fails. TensorStore goes on with the others, and Python would print a
    traceback for each that reports to the closed loop.
    """
    if getattr(sys.unraisablehook, "ignores_late_reads", False):
        return
    told = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine that nobody goes on with
        if not (closed or (code and "orbax" in code.co_filename)):
            told(unraisable)

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
    """What helps against a failed write."""
    if _brief(error) in FULL:
        return "Free some space"
    match getattr(error, "errno", None):
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "Make that folder writable"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return "Move away what stands in its place"
        case errno.ENOENT:
            return "Leave the folder in place while the training writes to it"
    return "Mend that"


def _difference(saved: dict[str, list[int]], like: Any) -> str:
    """The first array in which two states differ, in words."""
    wanted = shapes(like)
    name = next(k for k in [*saved, *wanted] if saved.get(k) != wanted.get(k))
    return f"its {name} is {saved.get(name, 'not there')}, the configuration's is {wanted.get(name, 'not there')}"
