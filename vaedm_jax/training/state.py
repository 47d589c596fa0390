"""The state of training, its optimiser and its moving average."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax


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
        opt_state=optimizer(settings).init(params),
    )


def optimizer(settings: Any) -> optax.GradientTransformation:
    """Adam, with a linear warm-up of the rate and clipping by the global norm where they are asked for."""

    def rate(step: jax.Array) -> jax.Array:
        return settings.learning_rate * jnp.minimum((step + 1) / max(settings.warmup, 1), 1.0)

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
