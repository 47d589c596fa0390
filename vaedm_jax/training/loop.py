"""The one training loop, for both stages."""

import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview
from clu.metrics import Average
from jax.sharding import Mesh
from tqdm import tqdm

from vaedm_jax import models
from vaedm_jax.data import Dataset, batches
from vaedm_jax.errors import RunError
from vaedm_jax.mesh import place_ahead, placement
from vaedm_jax.reporting import MetricWriter, Progress
from vaedm_jax.reporting.files import write_whole
from vaedm_jax.training.checkpoints import Best, Checkpoints
from vaedm_jax.training.stages import Stage
from vaedm_jax.training.state import TrainState, create_state
from vaedm_jax.training.step import make_train_step, state_shapes

WARM_UP = 5  # the quickest of so many steps is what the duration is estimated by: the first ones are slower
OnPicture = Callable[[int, Any], dict[str, float]]  # (step, averaged parameters) -> figures to write down


def total_steps(settings: Any, images: int) -> int:
    """Steps of a stage: its `steps`, or else its epochs over so many images."""
    return settings.steps or math.ceil(settings.epochs * images / settings.batch_size)


def fit(
    stage: Stage,
    data: Dataset,
    config: Any,
    workdir: Path,
    mesh: Mesh,
    on_picture: OnPicture,
    params: Any | None = None,
) -> TrainState:
    """Train a stage to its end, from its newest whole checkpoint if there is one.

    Args:
      on_picture: called every `log.pictures` steps and at the end. The state with the lowest of its figure
        `checkpoint.best` is kept in the folder `best`.
      params: those to begin with where there is no checkpoint; by default random ones.
    Raises: RunError where the loss is not finite, a disk is full or a signal asks to stop; what was saved stays.
    """
    folder, settings = workdir / stage.name, stage.settings
    total = total_steps(settings, len(data.train))
    key, init_key = jax.random.split(jax.random.key(config.seed))
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
    like = abstract_state(stage, mesh, config.mesh.fsdp)
    state = checkpoints.restore(like)
    start = 0 if state is None else int(state.step)
    if start >= total:
        print(f"{stage.name}: done, {start:,} steps (config.{stage.name}.steps asks for more)", flush=True)
        checkpoints.close()
        return state
    if state is None:
        state = new_state(stage, like, init_key, params)
    images = batches(
        data.train, settings.batch_size, config.seed, config.data.flip, start,
        shard=(jax.process_index(), jax.process_count()), workers=config.data.workers,
    )  # fmt: skip
    placed = place_ahead(mesh, images)
    batch = next(placed)
    step = make_train_step(stage, mesh, total, config.mesh.fsdp).lower(state, stage.frozen, batch, key).compile()

    pending: list[dict[str, jax.Array]] = []
    seconds: list[float] = []
    chosen_by = config.checkpoint.best if stage.name == "ddpm" else ""
    with (
        Stop() as stop,
        Progress(total, start, stage.name, settings.batch_size) as progress,
        closing(MetricWriter(folder, start)) as writer,
        closing(checkpoints),
        closing(Best(folder / "best", chosen_by, like)) as best,
    ):
        for n in range(start + 1, total + 1):
            began = time.monotonic()
            state, metrics = step(state, stage.frozen, batch, key)
            pending.append(metrics)
            if len(seconds) < WARM_UP:
                jax.block_until_ready(metrics)
                seconds.append(time.monotonic() - began)
                if n == min(start + WARM_UP, total):
                    opening(stage, state, step, start, total, min(seconds), folder)
            progress.update(n, metrics["loss"])
            end = n == total or stop.asked
            due = {what: end or n % every == 0 for what, every in intervals(config).items()}
            if any(due.values()):
                figures = averages(pending, n, folder)
                if due["pictures"] and not stop.asked:
                    figures |= on_picture(n, state.average)
                    best.consider(state, figures)
                if progress.images_per_s:
                    figures["images_per_s"] = progress.images_per_s
                writer.write(n, figures)
                pending = []
            if due["checkpoint"]:
                checkpoints.save(state)
            if end:
                break
            batch = next(placed)
    stop.check(stage.name, n, total)
    return state


def new_state(stage: Stage, like: TrainState, key: jax.Array, params: Any | None = None) -> TrainState:
    """That of step 0, with random parameters or with those that are given, where `abstract_state` says."""

    def new(key, params):
        return create_state(stage.init(key) if params is None else params, stage.settings)

    return jax.jit(new, out_shardings=jax.tree.map(lambda a: a.sharding, like))(key, params)


def intervals(config: Any) -> dict[str, int]:
    """How many steps lie between two of each."""
    return {
        "figures": config.log.every,
        "pictures": config.log.pictures,
        "checkpoint": config.checkpoint.every,
    }


def abstract_state(stage: Stage, mesh: Mesh, fsdp: bool = False) -> TrainState:
    """The shapes of a stage's state and where they lie, without making it."""
    shapes = state_shapes(stage)
    lies = placement(mesh, shapes, fsdp)
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, lies)


def restore_average(stage: Stage, workdir: Path, mesh: Mesh, best: bool = False, fsdp: bool = False) -> Any | None:
    """The averaged parameters of a stage's newest (or best) checkpoint in a run directory, None where there is none."""
    folder = workdir / stage.name / ("best" if best else "checkpoints")
    if not folder.is_dir():
        return None
    advice = {"advice": "leave --config.sample.best out to take the newest"} if best else {}
    with closing(Checkpoints(folder)) as checkpoints:
        state = checkpoints.restore(abstract_state(stage, mesh, fsdp), **advice)
    return None if state is None else state.average


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint in the folder of a stage, None where there is none."""
    return max((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), default=None)


def averages(pending: list[dict[str, jax.Array]], last: int, folder: Path) -> dict[str, float]:
    """Means of the figures of the steps that end with `last`; RunError names the first that is not finite."""
    fetched = jax.device_get(pending)
    for i, figures in enumerate(fetched):
        for name, value in figures.items():
            if not math.isfinite(value):
                raise RunError(
                    f"step {last - len(fetched) + 1 + i}: the {name} is {value}. Training stops; the checkpoints in "
                    f"{folder / 'checkpoints'} are from before it. A lower learning rate or clipping may help"
                )
    means = {}
    for name in fetched[0]:
        mean = Average.empty()
        for figures in fetched:
            mean = mean.merge(Average.from_model_output(values=figures[name]))
        means[name] = float(mean.compute())
    return means


def opening(
    stage: Stage, state: TrainState, compiled: Any, start: int, total: int, seconds: float, folder: Path
) -> None:
    """Say what is about to run, on what, and what it takes; leave the same in summary.json and parameters.txt."""
    devices = jax.devices()
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    summary = {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "parameters": models.count(state.params),
        "memory_a_device_MB": round((size - memory.alias_size_in_bytes) / 1e6),
        "batch_size": stage.settings.batch_size,
        "steps": total,
        "duration_estimate": tqdm.format_interval((total - start) * seconds),
    }
    write_whole(folder / "summary.json", json.dumps(summary, indent=1).encode())
    overview = parameter_overview.get_parameter_overview(state.params)
    write_whole(folder / "parameters.txt", overview.encode())
    print(
        f"{stage.name}: {summary['device']}, {summary['parameters']:,} parameters, about "
        f"{summary['memory_a_device_MB']:,} MB a device and {summary['duration_estimate']} for the steps "
        f"{start + 1:,} to {total:,} of {stage.settings.batch_size} images",
        flush=True,
    )


class Stop:
    """Turns SIGTERM and Ctrl-C into a request to save and stop; a second one stops at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = 0

    def __enter__(self) -> "Stop":
        self.before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked = number
        for s in self.SIGNALS:
            signal.signal(s, self.before[s])

    def check(self, name: str, step: int, total: int) -> None:
        if self.asked and step < total:
            why = signal.Signals(self.asked).name
            raise RunError(f"{why}: saved {name} at step {step:,} of {total:,}; the same command continues")
