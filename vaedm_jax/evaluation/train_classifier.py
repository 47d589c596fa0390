"""Trains the classifier that comes with the package, some minutes on two cores.

python -m vaedm_jax.evaluation.train_classifier --out=FILE
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaedm_jax.data import emoji
from vaedm_jax.evaluation.classifier import CATEGORIES, Classifier, save
from vaedm_jax.reporting.progress import Progress

HELD_OUT = 0.05  # as in the configurations


def labelled(side: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] and the indices of their categories [N]."""
    return side["image"], np.searchsorted(CATEGORIES, side["category"])


def augmented(key: jax.Array, image: jax.Array) -> jax.Array:
    """An image uint8 [H, W, 3] turned over, moved by up to 4 pixels, retinted lightly, and with a gap, at random.

    Whatever is cut or comes in is white, as the ground of the emoji is.
    """
    flip, move, tint, gap, size = jax.random.split(key, 5)
    H, W, _ = image.shape
    ink = 255 - image.astype(jnp.float32)
    ink = jnp.where(jax.random.bernoulli(flip), ink[:, ::-1], ink)
    padded = jnp.pad(ink, ((4, 4), (4, 4), (0, 0)))
    ink = jax.lax.dynamic_slice(padded, (*jax.random.randint(move, (2,), 0, 9), 0), ink.shape)
    ink *= 1 + 0.1 * jax.random.normal(tint, (1, 1, 3))
    y, x, half = *jax.random.uniform(gap, (2,)), jax.random.uniform(size, minval=-8, maxval=8)
    inside = (abs(jnp.arange(H) - y * H) < half)[:, None] & (abs(jnp.arange(W) - x * W) < half)[None]
    return 255 - jnp.where(inside[..., None], 0, ink).clip(0, 255)


def train(images: np.ndarray, labels: np.ndarray, steps: int, batch_size: int, seed: int) -> Any:
    """The parameters that AdamW finds, on a cosine schedule of its rate."""
    network, images, labels = Classifier(), jnp.asarray(images), jnp.asarray(labels)
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, min(200, steps // 10), steps)
    optimiser = optax.adamw(rate, weight_decay=0.05)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        targets = optax.smooth_labels(jax.nn.one_hot(y, len(CATEGORIES)), 0.1)
        return optax.softmax_cross_entropy(network.apply({"params": params}, x)[1], targets).mean()

    @jax.jit
    def step(state: tuple, i: int) -> tuple[tuple, jax.Array]:
        params, moments = state
        draw, change = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        chosen = jax.random.randint(draw, (batch_size,), 0, len(images))
        x = jax.vmap(augmented)(jax.random.split(change, batch_size), images[chosen])
        value, gradient = jax.value_and_grad(loss)(params, x, labels[chosen])
        updates, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    params = network.init(jax.random.key(seed), images[:1])["params"]
    state = params, optimiser.init(params)
    with Progress(steps, label="classifier", images_per_step=batch_size) as progress:
        for i in range(steps):
            state, value = step(state, i)
            progress.update(i + 1, value)
    return jax.device_get(state[0])


def accuracies(params: Any, images: np.ndarray, labels: np.ndarray, chunk: int = 512) -> tuple[float, float]:
    """The share of images [N, H, W, 3] whose category is found, and its mean over the categories."""
    predict = jax.jit(partial(Classifier().apply, {"params": params}))
    parts = [np.argmax(predict(images[i : i + chunk])[1], axis=1) for i in range(0, len(images), chunk)]
    right = np.concatenate(parts) == labels
    return float(right.mean()), float(np.mean([right[labels == k].mean() for k in np.unique(labels)]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the classifier of emoji.")
    parser.add_argument("--out", required=True, help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    sides = [labelled(side) for side in emoji.sides("", HELD_OUT)]
    params = train(*sides[0], options.steps, options.batch_size, options.seed)
    save(params, options.out)
    for name, side in zip(("training", "held-out"), sides, strict=True):
        share, balanced = accuracies(params, *side)
        print(f"{len(side[0])} {name} images: accuracy {share:.3f}, balanced over the categories {balanced:.3f}")


if __name__ == "__main__":
    main()
