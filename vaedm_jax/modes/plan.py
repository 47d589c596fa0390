"""Mode `plan`: estimate the cost of training and sampling on accelerators that need not be present."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vaedm_jax.conditioning.conditions import has_vae
from vaedm_jax.config import make_chain, names
from vaedm_jax.config.checks import check
from vaedm_jax.data import load
from vaedm_jax.errors import UserError
from vaedm_jax.reporting import Progress
from vaedm_jax.reporting.rows import aligned
from vaedm_jax.runtime.mesh import batch_sharding, make_mesh, replicated, whole_batch
from vaedm_jax.runtime.targets import TARGETS, Cost, cost_on, device_memory, make_devices, roofline
from vaedm_jax.sampling.generation import Given, generate
from vaedm_jax.sampling.networks import build_networks
from vaedm_jax.storage.writing import write_csv
from vaedm_jax.training.loop import abstract_state, total_steps
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.step import make_train_step

Shape = jax.ShapeDtypeStruct
COLUMNS = ("target", "program", "batch", "precision", "GFLOP", "GB moved", "collectives", "MB exchanged", "MB held")
COLUMNS += ("MB temporary", "of memory", "largest batch", "roofline ms", "compiler ms", "whole")


def plan(config: ConfigDict, workdir: Path) -> None:
    """Print a table of the cost of each program on each target, and write it to `plan.csv`."""
    check(config, to_train=False, to_run=False)
    if not names(config.plan.targets):
        known = ", ".join(TARGETS)
        raise UserError(f"plan.targets = {config.plan.targets!r} names no accelerator; give some of {known}")
    meshes = {name: make_mesh(config.mesh.model, make_devices(name)) for name in names(config.plan.targets)}
    images, rows = config.plan.images or len(load(config.data).train), []
    asked = {name: programs(name, mesh, config, images) for name, mesh in meshes.items()}
    total = sum(map(len, asked.values()))
    with not_stored(), Progress(total, 0, "plan", noun="program", unit="programs") as progress:
        for name, found in asked.items():
            for program in found:
                progress.label = f"plan, {name}, {program.label}"
                rows.append(row(name, program))
                progress.update(len(rows))
                write_csv(workdir / "plan.csv", rows)  # as they come: the largest program takes minutes
    print(aligned([COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]))
    print(
        f"all figures are per device; the estimates of the compiler are optimistic. Table: {workdir / 'plan.csv'}",
        flush=True,
    )


@contextmanager
def not_stored() -> Iterator[None]:
    """Disable the compilation cache: JAX cannot read back programs that were compiled for other devices."""
    setting = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 1e9)
    try:
        yield
    finally:
        jax.config.update(setting, before)


class Program(NamedTuple):
    """A program to compile, and how often it runs.

    Attributes:
      batch: the number of images in a batch.
      precision: that of the network.
      parts: the batch must be a multiple of this, the number of data-parallel devices times the microbatches.
      microbatches: the number of iterations of the loop over microbatches, of which the compiler counts only one.
      lower: lowers the program for a batch of this number of images.
      runs: the number of runs for the whole of `unit`.
      unit: what the runs add up to, such as "training".
    """

    label: str
    batch: int
    precision: str
    parts: int
    microbatches: int
    lower: Callable[[int], Any]
    runs: int
    unit: str


def programs(name: str, mesh: Mesh, config: ConfigDict, images: int) -> list[Program]:
    """Return one reverse step and the train step of each stage, the smallest program first.

    Raises:
      UserError: a batch cannot be divided equally.
    """
    share, fsdp = mesh.shape["data"], config.mesh.fsdp
    table, batch = make_chain(config.sample).table(build_networks(config).full_schedule), config.sample.batch_size
    lower = partial(lower_reverse_step, mesh, config)
    batch, precision = whole_batch(mesh, batch), config.ddpm.precision
    # One run is a row of the table, with both evaluations of guidance.
    found = [Program("reverse step", batch, precision, share, 1, lower, len(table.t), "a batch of samples")]
    stages = [vae_stage(config)] if has_vae(config.ddpm) else []
    stages.append(ddpm_stage(config, abstract_state(stages[0], mesh, fsdp).params if stages else {}))
    for stage in stages:
        settings = stage.settings
        parts = share * settings.microbatches
        if settings.batch_size % parts:
            raise UserError(
                f"{stage.name}.batch_size = {settings.batch_size}: must be a multiple of {parts}, since {name} divides "
                f"it into {parts} parts"
            )
        runs = total_steps(settings, images)
        lower = partial(lower_train_step, stage, mesh, config)
        sizes = settings.batch_size, settings.precision, parts, settings.microbatches
        found.append(Program(f"{stage.name} step", *sizes, lower, runs, "training"))
    return found


def lower_train_step(stage: Stage, mesh: Mesh, config: ConfigDict, batch: int) -> Any:
    """Return the train step, lowered for a batch of this number of images."""
    size = config.data.image_size
    images = Shape((batch, size, size, 3), np.uint8, sharding=batch_sharding(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = make_train_step(stage, mesh, 1000, config.mesh.fsdp)
    return made.lower(abstract_state(stage, mesh, config.mesh.fsdp), stage.frozen, images, key)


def lower_reverse_step(mesh: Mesh, config: ConfigDict, batch: int) -> Any:
    """Return a chain of one step from noise, lowered for a batch of this number of images."""
    stages = [ddpm_stage(config, {})] + ([vae_stage(config)] if has_vae(config.ddpm) else [])
    params = {"vae": {}, "prior": {}} | {
        s.name: with_sharding(abstract_state(s, mesh).params, replicated(mesh)) for s in stages
    }
    chain = replace(make_chain(config.sample), steps=1, start="noise", spacing="even")
    networks, share, seed = build_networks(config), batch_sharding(mesh), Shape((), np.int32, sharding=replicated(mesh))
    arrays = with_sharding(jax.eval_shape(lambda: chain.arrays(networks.full_schedule)), replicated(mesh))
    x_hat = Shape((batch, *networks.shape), np.float32, sharding=share) if networks.condition else None
    return generate.lower(networks, arrays, params, seed, Shape((batch,), np.int32, sharding=share), Given(x_hat=x_hat))


def with_sharding(tree: Any, sharding: Any) -> Any:
    """Return the shapes of a tree of arrays, all with this sharding."""
    return jax.tree.map(lambda a: Shape(a.shape, a.dtype, sharding=sharding), tree)


def row(name: str, program: Program) -> dict[str, Any]:
    """Compile a program for a target and return its row of the table."""
    cost, has = cost_on(name, program.lower(program.batch)), device_memory(name)
    facts = {"target": name, "program": program.label, "batch": program.batch, "precision": program.precision}
    if isinstance(cost, str):
        return dict.fromkeys(COLUMNS, "") | facts | {"whole": cost}
    bounds = roofline(name, cost)
    seconds = cost.seconds or (max(bounds) if bounds else 0.0)
    whole = duration(program.runs * program.microbatches * seconds)
    return facts | {
        "GFLOP": float(f"{cost.flops / 1e9:.4g}"),
        "GB moved": round(cost.moved / 1e9, 2),
        "collectives": cost.collectives,
        "MB exchanged": round(cost.exchanged / 1e6, 1),
        "MB held": round(cost.held / 1e6),
        "MB temporary": round(cost.temporary / 1e6),
        "of memory": f"{cost.memory / has:.1%}",
        "largest batch": largest(program, cost, has),
        "roofline ms": " and ".join(f"{1e3 * s:.1f}" for s in bounds) if bounds else "",
        "compiler ms": round(1e3 * cost.seconds, 1) if cost.seconds else "",
        "whole": f"{program.unit}: {whole}, {program.runs:,} runs" if seconds else f"{program.runs:,} runs",
    }


def largest(program: Program, cost: Cost, has: float) -> int:
    """Return a batch that fits into memory, if the temporary memory is proportional to the batch.

    A part of it does not depend on the batch, such as the gradients, so a somewhat larger batch may fit too. The batch
    is 0 if the parameters alone do not fit.
    """
    each = max(1, cost.temporary) / program.batch
    return max(0, int((has - cost.held) / each) // program.parts * program.parts)


def duration(seconds: float) -> str:
    """Return a duration in the largest unit in which it is at least 1, such as `1.5 minutes`."""
    units = {"days": 86400, "hours": 3600, "minutes": 60, "s": 1, "ms": 1e-3}
    unit, length = next((u, s) for u, s in units.items() if seconds >= s or s < 1)
    return f"{seconds / length:.3g} {unit}"
