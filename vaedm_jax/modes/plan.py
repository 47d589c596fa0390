"""Mode `plan`: what training and sampling would cost on accelerators that are not here."""

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
from vaedm_jax.config import chain_of, names
from vaedm_jax.config.checks import check
from vaedm_jax.data import load
from vaedm_jax.errors import UserError
from vaedm_jax.reporting import Progress
from vaedm_jax.runtime.mesh import make_mesh, replicated, split_batch, whole_batch
from vaedm_jax.runtime.targets import Cost, compile_for, devices_of, memory_of, roofline
from vaedm_jax.sampling.generation import Given, generate, networks_of
from vaedm_jax.storage.writing import write_csv
from vaedm_jax.training.loop import abstract_state, total_steps
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.step import make_train_step

Shape = jax.ShapeDtypeStruct
COLUMNS = ("target", "program", "batch", "precision", "GFLOP", "GB moved", "collectives", "MB exchanged", "MB held")
COLUMNS += ("MB temporary", "of memory", "largest batch", "roofline ms", "compiler ms", "whole")


def plan(config: ConfigDict, workdir: Path) -> None:
    """Print what each program costs on each target, and write `plan.csv`."""
    check(config, to_train=False, to_run=False)
    meshes = {name: make_mesh(config.mesh.model, devices_of(name)) for name in names(config.plan.targets)}
    images, rows = config.plan.images or len(load(config.data).train), []
    asked = {name: programs(name, mesh, config, images) for name, mesh in meshes.items()}
    total = sum(map(len, asked.values()))
    with not_stored(), Progress(total, 0, "plan", noun="program", unit="programs") as progress:
        for name, found in asked.items():
            for program in found:
                progress.label = f"plan, {name}, {program.label}"
                rows.append(row(name, program, config.ddpm.precision))
                progress.update(len(rows))
                write_csv(workdir / "plan.csv", rows)
    print(table(rows))
    print(f"of a device each; what compilers estimate is optimistic. The table: {workdir / 'plan.csv'}", flush=True)


@contextmanager
def not_stored() -> Iterator[None]:
    """Nothing goes into the compilation cache: JAX could not read back what was compiled for elsewhere."""
    setting = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 1e9)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


class Program(NamedTuple):
    """A program, lowered for a batch, and how often it runs for the whole recipe.

    Attributes:
      parts: its batch is shared by so many devices and microbatches; the loop over these counts once for the compiler.
    """

    label: str
    batch: int
    parts: int
    microbatches: int
    lower: Callable[[int], Any]
    runs: int
    unit: str


def programs(name: str, mesh: Mesh, config: ConfigDict, images: int) -> list[Program]:
    """The train step of each stage, and one reverse step; UserError where their batches cannot be shared."""
    share, fsdp, found = mesh.shape["data"], config.mesh.fsdp, []
    stages = [vae_stage(config)] if has_vae(config.ddpm) else []
    stages.append(ddpm_stage(config, abstract_state(stages[0], mesh, fsdp).params if stages else {}))
    for stage in stages:
        settings = stage.settings
        parts = share * settings.microbatches
        if settings.batch_size % parts:
            raise UserError(
                f"{stage.name}.batch_size = {settings.batch_size}: {name} works it off in {parts} parts; it must be a "
                "multiple of that"
            )
        runs = total_steps(settings, images)
        lower = partial(step, stage, mesh, config)
        label = f"{stage.name} step"
        found.append(Program(label, settings.batch_size, parts, settings.microbatches, lower, runs, "training"))
    runs, batch = chain_of(config.sample).nfe(networks_of(config).full_schedule), config.sample.batch_size
    lower = partial(reverse, mesh, config)
    return [*found, Program("reverse step", whole_batch(mesh, batch), share, 1, lower, runs, "a batch of samples")]


def step(stage: Stage, mesh: Mesh, config: ConfigDict, batch: int) -> Any:
    """The train step, lowered for a batch."""
    size = config.data.image_size
    images = Shape((batch, size, size, 3), np.uint8, sharding=split_batch(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = make_train_step(stage, mesh, 1000, config.mesh.fsdp)
    return made.lower(abstract_state(stage, mesh, config.mesh.fsdp), stage.frozen, images, key)


def reverse(mesh: Mesh, config: ConfigDict, batch: int) -> Any:
    """A chain of one step from noise, lowered for a batch."""
    stages = [ddpm_stage(config, {})] + ([vae_stage(config)] if has_vae(config.ddpm) else [])
    params = {"vae": {}, "prior": {}} | {
        s.name: lying(abstract_state(s, mesh).params, replicated(mesh)) for s in stages
    }
    chain = replace(chain_of(config.sample), steps=1, start="noise", spacing="even")
    networks, share, seed = networks_of(config), split_batch(mesh), Shape((), np.int32, sharding=replicated(mesh))
    arrays = lying(jax.eval_shape(lambda: chain.arrays(networks.full_schedule)), replicated(mesh))
    x_hat = Shape((batch, *networks.shape), np.float32, sharding=share) if networks.condition else None
    return generate.lower(networks, arrays, params, seed, Shape((batch,), np.int32, sharding=share), Given(x_hat=x_hat))


def lying(tree: Any, place: Any) -> Any:
    return jax.tree.map(lambda a: Shape(a.shape, a.dtype, sharding=place), tree)


def row(name: str, program: Program, precision: str) -> dict[str, Any]:
    """A line of the table; see `largest` for the largest batch."""
    cost, has = compile_for(lambda: program.lower(program.batch)), memory_of(name)
    facts = {"target": name, "program": program.label, "batch": program.batch, "precision": precision}
    if isinstance(cost, str):
        return dict.fromkeys(COLUMNS, "") | facts | {"whole": cost}
    double = compile_for(lambda: program.lower(2 * program.batch))
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
        "largest batch": largest(program, cost, double, has),
        "roofline ms": " and ".join(f"{1e3 * s:.1f}" for s in bounds) if bounds else "",
        "compiler ms": round(1e3 * cost.seconds, 1) if cost.seconds else "",
        "whole": f"{program.unit}: {whole}, {program.runs:,} runs" if seconds else f"{program.runs:,} runs",
    }


def largest(program: Program, cost: Cost, double: Cost | str, has: float) -> int:
    """The batch at which a line through the memory of the batch and of its double reaches what there is."""
    if isinstance(double, str):
        return program.batch
    each = max(1, double.memory - cost.memory) / program.batch
    return int(program.batch + (has - cost.memory) / each) // program.parts * program.parts


def duration(seconds: float) -> str:
    units = {"days": 86400, "hours": 3600, "minutes": 60, "s": 1, "ms": 1e-3}
    unit, length = next((u, s) for u, s in units.items() if seconds >= s or s < 1)
    return f"{seconds / length:.3g} {unit}"
