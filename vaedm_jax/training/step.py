"""The train step, the same for both stages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import batch_sharding, in_batches, replicated, shardings
from vaedm_jax.training.stages import Loss, Stage
from vaedm_jax.training.state import TrainState, create_state, ema_decay, optimizer

Metrics = dict[str, jax.Array]


def batch_keys(key: jax.Array, step: jax.Array, n: int) -> jax.Array:
    """Return the keys [n] of the images in the batch of a step."""
    return image_keys(jax.random.fold_in(key, step), jnp.arange(n))


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Return the keys [B] of images, by their indices [B] in a batch or in a data set."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def held_out_metrics(stage: Stage, mesh: Mesh) -> Callable[..., dict[str, float]]:
    """Return a function (parameters, images uint8 [N, H, W, C]) -> means of the stage's held-out metrics.

    The devices share the images, in batches as large as a microbatch of training. Image i has the same noise in every
    call. The function takes `poll`, which it calls between batches.
    """
    key = jax.random.fold_in(jax.random.key(0), 0)
    each = jax.jit(lambda params, frozen, images, i: stage.held_out(params, frozen, images, image_keys(key, i)))
    size = stage.settings.batch_size // stage.settings.microbatches

    def means(params: Any, images: np.ndarray, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        parts = []
        for count, batch in in_batches(mesh, (images, np.arange(len(images))), size):
            poll()
            metrics = hosts.to_host(each(params, stage.frozen, *batch))
            parts.append({name: values[:count] for name, values in metrics.items()})
        return {name: float(np.mean(np.concatenate([part[name] for part in parts]))) for name in parts[0]}

    return means


def gradients(
    loss: Loss, params: Any, frozen: Any, images: jax.Array, keys: jax.Array, step: jax.Array, microbatches: int
) -> tuple[Any, Metrics]:
    """Return gradients and metrics of a batch, computed in `microbatches` parts, one after the other."""

    def part(images: jax.Array, keys: jax.Array) -> tuple[Any, Metrics]:
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, frozen, images, keys, step)
        return grads, {"loss": value, **metrics}

    if microbatches == 1:
        return part(images, keys)
    # Part m has the images m, m + M, m + 2M ..., so that no image moves to another device.
    parts = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), (images, keys))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, images, keys))
    total, _ = jax.lax.scan(lambda sum_, p: (jax.tree.map(jnp.add, sum_, part(*p)), None), zeros, parts)
    return jax.tree.map(lambda a: a / microbatches, total)


def sharded_loss(loss: Loss, mesh: Mesh, params_shardings: Any, precision: str) -> Loss:
    """Return the loss for parameters that are sharded over `data`; each device computes its part of the batch.

    A device gathers parameters when it needs them, in the precision of the network. Each gradient is summed over the
    devices and sharded as soon as it is computed. Without this, XLA would keep all gradients whole until the end. (For
    TPUs before v5e it does so anyway.)
    """
    cuts = jax.tree.map(lambda s: [i for i, axis in enumerate(s.spec) if axis == "data"], params_shardings)
    specs = jax.tree.map(lambda s: PartitionSpec(*(a if a == "data" else None for a in s.spec)), params_shardings)

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
    """Return the shapes of a stage's state, without creating it."""
    return jax.eval_shape(lambda key: create_state(stage.init(key), stage.settings), jax.random.key(0))


def make_train_step(stage: Stage, mesh: Mesh, total: int, fsdp: bool = False) -> Callable:
    """Return the train step: (state, frozen, images uint8 [B, H, W, C], key) -> (state, metrics).

    It is compiled for the mesh, and the state is donated.

    Args:
      total: the number of steps of the whole run, on which the schedules of the learning rate and the average depend.
      fsdp: whether the state is sharded over `data`; see `mesh.RULES`.
    """
    settings, tx = stage.settings, optimizer(stage.settings, total)
    everywhere, state_shardings = replicated(mesh), shardings(mesh, state_shapes(stage), fsdp)
    loss = sharded_loss(stage.loss, mesh, state_shardings.params, settings.precision) if fsdp else stage.loss

    def step(state: TrainState, frozen: Any, images: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        keys = batch_keys(key, state.step, len(images))
        grads, metrics = gradients(loss, state.params, frozen, images, keys, state.step, settings.microbatches)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step + 1
        decay = ema_decay(settings, n, total)
        ema = optax.incremental_update(params, state.ema, 1 - decay) if state.ema else {}
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(n, params, ema, opt_state), metrics

    return jax.jit(
        step,
        in_shardings=(state_shardings, shardings(mesh, stage.frozen, fsdp), batch_sharding(mesh), everywhere),
        out_shardings=(state_shardings, everywhere),
        donate_argnums=0,
    )
