"""The train state, its optimiser and its moving average."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

# decay -> a function from the number of steps after the warm-up to the schedule of a factor of the learning rate.
DECAYS: dict[str, Callable[[int], optax.Schedule | None]] = {
    "constant": lambda steps: None,
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
}


class TrainState(flax.struct.PyTreeNode):
    """All that changes in training. `step` also determines the key of a step and the position in the data.

    Attributes:
      step: the number of finished steps, a scalar.
      params: the parameters of the network.
      ema: their exponential moving average; empty if none is kept.
      opt_state: the state of the optimiser.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any

    @property
    def average(self) -> Any:
        """The parameters to sample with: the average, if there is one."""
        return self.ema or self.params


def create_state(params: Any, settings: Any) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if settings.ema_decay else {},
        opt_state=optimizer(settings, 1).init(params),
    )


def optimizer(settings: Any, total: int) -> optax.GradientTransformation:
    """Return Adam with a linear warm-up of the learning rate, after which `decay` lowers it to 0 at step `total`.

    Gradients are clipped by their global norm first, if `clip` is set. The state does not depend on `total`.
    """
    decay = DECAYS[settings.decay](max(total - settings.warmup, 1))

    def rate(step: jax.Array) -> jax.Array:
        peak = settings.learning_rate * jnp.minimum((step + 1) / max(settings.warmup, 1), 1.0)
        return peak * decay(jnp.maximum(step - settings.warmup, 0)) if decay else peak

    clip = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    return optax.chain(clip, optax.adam(rate))


def ema_decay(settings: Any, step: jax.Array, total: int) -> jax.Array:
    """Return the decay of the average at a step (counted from 1) of `total`.

    `byol` rises to 1, as in the paper: 1 - (1 - decay) (cos(pi k / K) + 1) / 2 (arXiv 2006.07733, section 3.3).
    """
    decay = jnp.asarray(settings.ema_decay, jnp.float32)
    if settings.ema_schedule == "byol":
        decay = 1 - (1 - decay) * (jnp.cos(jnp.pi * step / total) + 1) / 2
    return jnp.minimum(decay, (1 + step) / (10 + step)) if settings.ema_warmup else decay
