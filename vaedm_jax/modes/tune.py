"""Mode `tune`: a learnt table for the chain of `sample`, fitted to images of a chain with many steps."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.diffusion.chain import Chain, ChainArrays
from vaedm_jax.diffusion.learnt import TEACHER, TUNED, Learnt, learnt_table, table_name, unrolled
from vaedm_jax.errors import UserError, prefix_errors
from vaedm_jax.modes.shared.drawing import with_t_start
from vaedm_jax.modes.shared.models import load_training_images, open_model
from vaedm_jax.reporting import Progress
from vaedm_jax.runs.weights import read_tables, write_tables
from vaedm_jax.runtime.mesh import whole_batch
from vaedm_jax.sampling.engine import Engine
from vaedm_jax.sampling.generation import generate
from vaedm_jax.sampling.networks import Networks
from vaedm_jax.storage.writing import set_aside

FIRST = 2**30  # the index of the first image, far from those that are sampled and scored
LOOK = 10  # steps between two evaluations of the held-out error


def tune(config: ConfigDict, workdir: Path) -> None:
    """Write `tables.safetensors` with the learnt table of the chain, beside the tables of earlier commands.

    The table is the one with the lowest held-out error of all steps, the start included.
    """
    check(config, to_train=False)
    model = open_model(config, workdir)
    images, whole = config.tune.images, whole_batch(model.engine.mesh, config.tune.batch_size)
    if images <= whole:
        raise UserError(
            f"tune.images = {images}: it must be more than {whole}, which is one batch (tune.batch_size), since one is "
            "held out and the table is fitted to the others"
        )
    chain = replace(make_chain(config.sample), sampler=TEACHER)
    (chain,) = with_t_start(model, [chain], lambda: load_training_images(config, model).train)
    engine, name, settings = model.engine, table_name(chain), config.tune
    engine.check_chain(chain)
    if engine.networks.condition:
        raise UserError("--mode=tune: this model is shown a part of an image; tune works for a VAE and for uncond")
    if model.config.ddpm.objective == "consistency":
        raise UserError(
            "--mode=tune: ddpm.objective = 'consistency': this model does not follow the ODE of many steps; use the "
            "model that it was tuned from"
        )
    teacher = replace(chain, steps=settings.teacher)
    with prefix_errors("tune.teacher: "):
        engine.check_chain(teacher)
    batches = images_of_teacher(engine, teacher, config.seed, settings)
    learnt, errors = fit(engine, chain, batches, config.seed, settings)
    print(f"{name}: root mean square error to {settings.teacher} steps, of held-out images in [0, 1]:")
    print(f"{TEACHER}, where it began: {errors[0] ** 0.5:.4f}; learnt: {min(errors) ** 0.5:.4f}")
    file, tables = workdir / "tables.safetensors", {}
    try:
        tables = read_tables(file, engine.refiner_digest) if file.is_file() else {}
    except UserError as error:
        print(f"note: {error}; it is renamed", flush=True)
        set_aside(file)
    write_tables(file, tables | {name: learnt._asdict()}, engine.refiner_digest)
    begins = f" --config.sample.start={chain.start}"
    begins += f" --config.sample.t_start={chain.t_start}" if chain.start == "warm" else ""
    print(
        f"wrote the table; use it with --config.sample.tables={file} --config.sample.sampler={TUNED} "
        f"--config.sample.steps={chain.steps}{begins}",
        flush=True,
    )


def images_of_teacher(engine: Engine, teacher: Chain, seed: int, settings: ConfigDict) -> list[tuple[Any, Any]]:
    """Return batches on the devices: the indices of images [B], and the images [B, H, W, C] of the teacher."""
    drawn = []
    with Progress(settings.images, 0, "tune: images of the teacher", noun="image") as progress:
        for part in engine.sample_batches(settings.images, seed, FIRST, teacher, settings.batch_size):
            drawn.append(part.images)
            progress.update(sum(map(len, drawn)))
    arrays = np.arange(FIRST, FIRST + settings.images), np.concatenate(drawn)
    return [batch for _, batch in engine.on_devices(arrays, settings.batch_size)]


@partial(jax.jit, static_argnums=0)
def squared_error(
    networks: Networks,
    learnt: Learnt,
    arrays: ChainArrays,
    params: Any,
    key: jax.Array,
    indices: jax.Array,
    wanted: jax.Array,
) -> jax.Array:
    """Return the mean squared error of the images by a learnt table to the `wanted` ones."""
    arrays = arrays._replace(table=learnt_table(networks.full_schedule, arrays.table, learnt))
    return jnp.mean((generate(networks, arrays, params, key, indices)[0] - wanted) ** 2)


gradient = jax.jit(jax.grad(squared_error, argnums=1), static_argnums=0)


def fit(
    engine: Engine, chain: Chain, batches: list[tuple[Any, Any]], seed: int, settings: ConfigDict
) -> tuple[Learnt, list[float]]:
    """Return the numbers of the lowest held-out error, and the held-out mean squared errors from the start on.

    The first fifth of the batches, rounded down to whole batches but at least one, is held out. Each step takes one of
    the other batches, in turn.

    Args:
      batches: two or more, from `images_of_teacher`.
    """
    few = max(1, len(batches) // 5)
    held_out, train = batches[:few], batches[few:]
    start = jax.tree.map(np.float32, unrolled(chain.table(engine.networks.full_schedule)))
    arrays, key, learnt = engine.replicate((chain.arrays(engine.networks.full_schedule), np.uint32(seed), start))
    adam = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))

    def look(learnt: Learnt) -> float:
        error = partial(squared_error, engine.networks, learnt, arrays, engine.params, key)
        return float(np.mean([error(*batch) for batch in held_out]))

    state, best, errors = adam.init(learnt), learnt, [look(learnt)]
    with Progress(settings.steps, 0, "tune", noun="step", unit="steps") as progress:
        for step in range(settings.steps):
            g = gradient(engine.networks, learnt, arrays, engine.params, key, *train[step % len(train)])
            updates, state = adam.update(g, state)
            learnt = optax.apply_updates(learnt, updates)
            if (step + 1) % LOOK == 0 or step + 1 == settings.steps:
                errors.append(look(learnt))
                best = learnt if errors[-1] == min(errors) else best
                progress.update(step + 1, errors[-1])
    return jax.tree.map(np.asarray, best), errors
