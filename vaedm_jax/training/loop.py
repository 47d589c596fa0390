"""The one training loop, for both stages."""

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vaedm_jax.data import Dataset, batches
from vaedm_jax.errors import check_range
from vaedm_jax.runtime.mesh import check_memory, host_share, prefetch_batches, replicated, shardings
from vaedm_jax.training.checkpoints import Best, Checkpoints
from vaedm_jax.training.flops import count_flops
from vaedm_jax.training.log import Log
from vaedm_jax.training.stages import Stage
from vaedm_jax.training.state import TrainState, create_state
from vaedm_jax.training.step import make_train_step, state_shapes
from vaedm_jax.training.stop import Poll, Stop

OWED = "pictures_owed"  # marks the checkpoint of a run that was stopped before it had drawn its pictures
OnPicture = Callable[[int, Any, Poll], dict[str, float]]  # (step, averaged parameters, poll) -> metrics


def total_steps(settings: Any, images: int) -> int:
    """Return the number of steps of a stage: its `steps`, or its epochs over so many images."""
    total = settings.steps or math.ceil(settings.epochs * images / settings.batch_size)
    check_range(
        f"steps of {settings.epochs:g} epochs over {images:,} images", total, 1, 2**31 - 1, "32 bits count them"
    )
    return total


def fit(
    stage: Stage,
    data: Dataset,
    config: Any,
    workdir: Path,
    mesh: Mesh,
    on_picture: OnPicture,
    params: Any | None = None,
    begun: "Begun | None" = None,
) -> TrainState:
    """Train a stage to its end, from its newest whole checkpoint if there is one.

    Args:
      on_picture: called every `log.pictures` steps and at the end. The state with the lowest `checkpoint.best` of its
        metrics is kept in the folder `best`.
      params: the initial parameters if there is no checkpoint; by default they are random.
      begun: what `begin` returned, if it was called already.

    Raises:
      RunError: the loss is not finite, or a disk is full. Checkpoints are kept.
      Stopped: a signal came, and the state is saved. A single process stops at once, several at the next multiple of
        `log.every`.
    """
    folder, settings = workdir / stage.name, stage.settings
    total = total_steps(settings, len(data.train))
    seed = stage_seed(stage.name, config)
    split = jax.jit(lambda seed: jax.random.split(jax.random.key(seed)), out_shardings=replicated(mesh))
    key, init_key = split(np.uint32(seed))
    like = abstract_state(stage, mesh, config.mesh.fsdp)
    checkpoints, state = begun or begin(stage, config, workdir, mesh)
    start = 0 if state is None else int(state.step)
    owed = OWED in checkpoints.metrics
    if start >= total and not owed:
        print(f"{stage.name}: done, {start:,} steps (to train on: --config.{stage.name}.steps=N)", flush=True)
        checkpoints.close()
        return state
    if state is None:
        state = new_state(stage, like, init_key, params)
    images = batches(
        data.train, settings.batch_size, seed, config.data.flip, start, host_share(mesh), config.data.workers
    )
    placed = prefetch_batches(mesh, images)
    batch = next(placed)
    traced = make_train_step(stage, mesh, total, config.mesh.fsdp).trace(state, stage.frozen, batch, key)
    flops, step = count_flops(traced.jaxpr) / mesh.size, traced.lower().compile()

    chosen_by = config.checkpoint.best if stage.name == "ddpm" else ""
    with (
        Stop() as stop,
        closing(images),
        checkpoints,
        closing(Log(stage, like, step, flops, start, total, folder, config)) as log,
        Best(folder / "best", chosen_by, like) as best,
    ):
        outputs = Outputs(stage.name, total, intervals(config), on_picture, stop, log, checkpoints, best)
        if owed:
            outputs.draw_owed(start, state)
        for n in range(start + 1, total + 1):
            state, metrics = step(state, stage.frozen, batch, key)
            outputs.after_step(n, state, metrics)
            if n < total:
                batch = next(placed)
    return state


class Outputs(NamedTuple):
    """What a stage writes between its steps: metrics, pictures and checkpoints. A signal ends the run here.

    Attributes:
      name: the stage.
      total: its number of steps.
      every: the interval of each output in steps.
      on_picture: see `fit`.
      stop, log, checkpoints, best: open while the stage is trained.
    """

    name: str
    total: int
    every: dict[str, int]
    on_picture: OnPicture
    stop: Stop
    log: Log
    checkpoints: Checkpoints
    best: Best

    def draw(self, n: int, state: TrainState) -> dict[str, float] | None:
        """Draw the pictures of step n, and return their metrics; None if a signal came before they were finished."""
        found = self.stop.try_to(lambda poll: self.on_picture(n, state.average, poll))
        if found is not None:
            self.best.consider(state, found)
        return found

    def draw_owed(self, n: int, state: TrainState) -> None:
        """Draw the pictures that an earlier command was stopped before."""
        found = self.draw(n, state)
        self.stop.check(self.stop.asked if found is None else 0, self.name, n, self.total)
        self.log.write(n, found)
        if n >= self.total:  # no later checkpoint will say that they are drawn
            self.checkpoints.save(state)

    def after_step(self, n: int, state: TrainState, metrics: Any) -> None:
        """Write what is due after step n; raise Stopped, with the state saved, if a signal came."""
        self.log.add(n, metrics)
        due = {what: n == self.total or n % every == 0 for what, every in self.every.items()}
        stopped = self.stop.request(together=due["metrics"])
        found: dict[str, float] | None = {}
        if stopped or any(due.values()):
            means = self.log.averages(n)
            found = self.draw(n, state) if due["pictures"] else {}
            self.log.write(n, means | (found or {}))
            stopped = stopped or (self.stop.asked if found is None else 0)
        if stopped or due["checkpoint"]:
            self.log.writer.sync()
            self.checkpoints.save(state, {OWED: 1.0} if found is None else {})
        self.stop.check(stopped, self.name, n, self.total)


class Begun(NamedTuple):
    """The checkpoints of a stage and their newest undamaged state, None if there is none."""

    checkpoints: Checkpoints
    state: TrainState | None


def begin(stage: Stage, config: Any, workdir: Path, mesh: Mesh) -> Begun:
    """Read the newest state of a stage; raise UserError if training cannot continue from it."""
    like = abstract_state(stage, mesh, config.mesh.fsdp)
    check_memory(like, f"the state of the {stage.name.upper()}")
    checkpoints = Checkpoints(workdir / stage.name / "checkpoints", config.checkpoint.keep)
    return Begun(checkpoints, checkpoints.restore(like))


def stage_seed(name: str, config: Any) -> int:
    """Return the seed of a stage: that of the run, combined with the stage's name if `seed_per_stage` is set.

    Without the name, both stages would see the same images with the same noise of z, step by step.
    """
    if not config.seed_per_stage:
        return config.seed
    return int(np.random.SeedSequence([config.seed, *name.encode()]).generate_state(1)[0])


def new_state(stage: Stage, like: TrainState, key: jax.Array, params: Any | None = None) -> TrainState:
    """Create the initial train state, sharded like `like`, from given or from random parameters."""

    def new(key, params):
        return create_state(stage.init(key) if params is None else params, stage.settings)

    return jax.jit(new, out_shardings=jax.tree.map(lambda a: a.sharding, like))(key, params)


def intervals(config: Any) -> dict[str, int]:
    """Return the interval of each output in steps."""
    return {
        "metrics": config.log.every,
        "pictures": config.log.pictures,
        "checkpoint": config.checkpoint.every,
    }


def abstract_state(stage: Stage, mesh: Mesh, fsdp: bool = False) -> TrainState:
    """Return the shapes and shardings of a stage's state, without creating it."""
    shapes = state_shapes(stage)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        shardings(mesh, shapes, fsdp),
    )


def restore_average(stage: Stage, workdir: Path, mesh: Mesh, best: bool = False, fsdp: bool = False) -> Any | None:
    """Return the averaged parameters of a stage's newest (or best) checkpoint in a run directory; None without one."""
    folder = workdir / stage.name / ("best" if best else "checkpoints")
    if not folder.is_dir():
        return None
    advice = {"advice": "leave --config.sample.best out to take the newest"} if best else {}
    with closing(Checkpoints(folder)) as checkpoints:
        state = checkpoints.restore(abstract_state(stage, mesh, fsdp), **advice)
    return None if state is None else state.average


def newest_step(folder: Path) -> int | None:
    """Return the number of the newest checkpoint in the folder of a stage; None without one.

    It is the step of its state, or one more; see `Checkpoints.save`.
    """
    return max((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), default=None)
