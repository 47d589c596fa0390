"""The train step, the same for both stages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import in_batches, placement, replicated, split_batch
from vaedm_jax.training.stages import Loss, Stage
from vaedm_jax.training.state import TrainState, create_state, ema_decay, optimizer

Metrics = dict[str, jax.Array]


def batch_keys(key: jax.Array, step: jax.Array, n: int) -> jax.Array:
    """The keys [n] of the images of the batch of a step."""
    return image_keys(jax.random.fold_in(key, step), jnp.arange(n))


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """The keys [B] of images, by their indices [B] in a batch or in a set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def held_out_figures(stage: Stage, mesh: Mesh) -> Callable[[Any, np.ndarray], dict[str, float]]:
    """Return a function (parameters, images uint8 [N, H, W, C]) -> means of the stage's figures of held-out images.

    The devices share the images, and take as many at a time as in a microbatch of training. Image i has the same noise
    at every call.
    """
    key = jax.random.fold_in(jax.random.key(0), 0)
    each = jax.jit(lambda params, frozen, images, i: stage.held_out(params, frozen, images, image_keys(key, i)))
    size = stage.settings.batch_size // stage.settings.microbatches

    def means(params: Any, images: np.ndarray) -> dict[str, float]:
        parts = [
            jax.tree.map(lambda a: a[:count], hosts.fetch(each(params, stage.frozen, *batch)))  # noqa: B023
            for count, batch in in_batches(mesh, (images, np.arange(len(images))), size)
        ]
        return {name: float(np.mean(np.concatenate([part[name] for part in parts]))) for name in parts[0]}

    return means


def gradients(
    loss: Loss, params: Any, frozen: Any, images: jax.Array, keys: jax.Array, step: jax.Array, microbatches: int
) -> tuple[Any, Metrics]:
    """Gradients and figures of a batch at a step, worked off in `microbatches` parts, one after the other."""

    def part(images: jax.Array, keys: jax.Array) -> tuple[Any, Metrics]:
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, frozen, images, keys, step)
        return grads, {"loss": value, **metrics}

    if microbatches == 1:
        return part(images, keys)
    # Part m has the images m, m + M, m + 2M ...: so every device keeps the images that it has.
    parts = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), (images, keys))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, images, keys))
    total, _ = jax.lax.scan(lambda sum_, p: (jax.tree.map(jnp.add, sum_, part(*p)), None), zeros, parts)
    return jax.tree.map(lambda a: a / microbatches, total)


def by_parts(loss: Loss, mesh: Mesh, lies: Any, precision: str) -> Loss:
    """The loss of parameters that are cut over `data`, where each device takes its part of the batch.

    A device gathers them as it needs them, in the precision of the network. So a gradient is summed over the devices,
    and cut, as soon as it is there, where XLA would else keep all of them whole until the end (as it does for TPUs
    before v5e all the same).
    """
    cuts = jax.tree.map(lambda place: [i for i, axis in enumerate(place.spec) if axis == "data"], lies)
    specs = jax.tree.map(lambda place: PartitionSpec(*(a if a == "data" else None for a in place.spec)), lies)

    def whole(array: jax.Array, axes: list[int]) -> jax.Array:
        array = array.astype(precision)
        return jax.lax.all_gather(array, "data", axis=axes[0], tiled=True) if axes else array

    def of_all(
        params: Any, frozen: Any, images: jax.Array, keys: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        def of_part(params: Any, *inputs: Any) -> tuple[jax.Array, Metrics]:
            return jax.lax.pmean(loss(jax.tree.map(whole, params, cuts), *inputs), "data")

        split, everywhere = PartitionSpec("data"), PartitionSpec()
        inputs = specs, everywhere, split, split, everywhere
        how = dict(mesh=mesh, in_specs=inputs, out_specs=everywhere, axis_names={"data"})
        mapped = jax.shard_map(of_part, **how, check_vma=False)  # JAX 0.12.0.1 checks float32's erf in vain
        return mapped(params, frozen, images, keys, step)

    return of_all


def state_shapes(stage: Stage) -> TrainState:
    """The shapes of a stage's state, without making it."""
    return jax.eval_shape(lambda key: create_state(stage.init(key), stage.settings), jax.random.key(0))


def make_train_step(stage: Stage, mesh: Mesh, total: int, fsdp: bool = False) -> Callable:
    """(state, frozen, images uint8 [B, H, W, C], key) -> (state, metrics), jitted over the mesh; the state is donated.

    Args:
      total: the number of steps of the whole run, which the schedules of the rate and of the average may ask for.
      fsdp: the state is cut over `data`; see `mesh.RULES`.
    """
    settings, tx = stage.settings, optimizer(stage.settings, total)
    everywhere, lies = replicated(mesh), placement(mesh, state_shapes(stage), fsdp)
    loss = by_parts(stage.loss, mesh, lies.params, settings.precision) if fsdp else stage.loss

    def step(state: TrainState, frozen: Any, images: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        keys = batch_keys(key, state.step, len(images))
        grads, metrics = gradients(loss, state.params, frozen, images, keys, state.step, settings.microbatches)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step + 1
        d = ema_decay(settings, n, total)
        ema = jax.tree.map(lambda a, p: d * a + (1 - d) * p, state.ema, params) if state.ema else {}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(n, params, ema, opt_state), metrics

    return jax.jit(
        step,
        in_shardings=(lies, placement(mesh, stage.frozen, fsdp), split_batch(mesh), everywhere),
        out_shardings=(lies, everywhere),
        donate_argnums=0,
    )
