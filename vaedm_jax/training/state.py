"""The state of training, its optimiser and its moving average."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

# From the steps that follow the warm-up to the schedule of a factor of the rate.
DECAYS: dict[str, Callable[[int], optax.Schedule | None]] = {
    "constant": lambda steps: None,
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
}


class TrainState(flax.struct.PyTreeNode):
    """All that changes in training. The key of a step is the seed's folded with `step`, the data's position is `step`.

    Attributes:
      step: steps done, a scalar. params: the network's parameters.
      ema: their exponential moving average; empty where none is kept.
      opt_state: the optimiser's.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any

    @property
    def average(self) -> Any:
        """The parameters to sample with."""
        return self.ema or self.params


def create_state(params: Any, settings: Any) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if settings.ema_decay else {},
        opt_state=optimizer(settings, 1).init(params),
    )


def optimizer(settings: Any, total: int) -> optax.GradientTransformation:
    """Return Adam with a linear warm-up of the rate, which `decay` then lowers to 0 at step `total`.

    Clipping by the global norm comes first, where it is asked for. The state does not depend on `total`.
    """
    decay = DECAYS[settings.decay](max(total - settings.warmup, 1))

    def rate(step: jax.Array) -> jax.Array:
        peak = settings.learning_rate * jnp.minimum((step + 1) / max(settings.warmup, 1), 1.0)
        return peak * decay(jnp.maximum(step - settings.warmup, 0)) if decay else peak

    clip = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    return optax.chain(clip, optax.adam(rate))


def ema_decay(settings: Any, step: jax.Array, total: int) -> jax.Array:
    """The average's decay at a step (counted from 1) of `total`.

    `byol` rises to 1 (arXiv 2006.07733, section 3.3), as the paper has it: 1 - (1 - decay) (cos(pi k / K) + 1) / 2.
    """
    decay = jnp.asarray(settings.ema_decay, jnp.float32)
    if settings.ema_schedule == "byol":
        decay = 1 - (1 - decay) * (jnp.cos(jnp.pi * step / total) + 1) / 2
    return jnp.minimum(decay, (1 + step) / (10 + step)) if settings.ema_warmup else decay
