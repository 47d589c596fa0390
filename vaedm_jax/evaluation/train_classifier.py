"""The training of a classifier of the package. It takes some minutes on two cores.

python -m vaedm_jax.evaluation.train_classifier --data=avatars --out=FILE
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaedm_jax.data import avatars, emoji
from vaedm_jax.evaluation.classifier import LABELS, network, save
from vaedm_jax.reporting.progress import Progress

HELD_OUT = 0.05  # as in the configurations


def load_labelled(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (images [N, 32, 32, 3], classes [N, labels]) of the images to train on and of the held-out images."""
    sides = emoji.sides("", HELD_OUT) if name == "emoji" else avatars.sides(HELD_OUT)
    known = {label: np.unique(np.concatenate([side[label] for side in sides])) for label in LABELS[name]}
    assert {label: len(values) for label, values in known.items()} == LABELS[name]
    return [
        (side["image"], np.stack([np.searchsorted(known[label], side[label]) for label in known], axis=1))
        for side in sides
    ]


def split_logits(name: str, logits: jax.Array) -> list[jax.Array]:
    """Split the concatenated logits of all labels into those of each label, [B, classes]."""
    return jnp.split(logits, np.cumsum(list(LABELS[name].values()))[:-1], axis=1)


def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """Flip a uint8 image [H, W, 3], shift it by up to 4 pixels, tint it slightly, and cut out a square, all at random.

    The square and the pixels that are shifted in are white, like the background of the images.
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


def train(name: str, images: np.ndarray, labels: np.ndarray, steps: int, batch_size: int, seed: int) -> Any:
    """Return the parameters after training with AdamW and a cosine schedule of the learning rate."""
    classifier, images, labels = network(name), jnp.asarray(images), jnp.asarray(labels)
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, min(200, steps // 10), steps)
    optimiser = optax.adamw(rate, weight_decay=0.05)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        losses = [
            optax.softmax_cross_entropy(part, optax.smooth_labels(jax.nn.one_hot(k, part.shape[1]), 0.1)).mean()
            for part, k in zip(split_logits(name, classifier.apply({"params": params}, x)[1]), y.T, strict=True)
        ]
        return sum(losses) / len(losses)

    @jax.jit
    def step(state: tuple, i: int) -> tuple[tuple, jax.Array]:
        params, moments = state
        draw, change = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        chosen = jax.random.randint(draw, (batch_size,), 0, len(images))
        x = jax.vmap(augment)(jax.random.split(change, batch_size), images[chosen])
        value, gradient = jax.value_and_grad(loss)(params, x, labels[chosen])
        updates, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    params = classifier.init(jax.random.key(seed), images[:1])["params"]
    state = params, optimiser.init(params)
    with Progress(steps, label="classifier", images_per_step=batch_size) as progress:
        for i in range(steps):
            state, value = step(state, i)
            progress.update(i + 1, value)
    return jax.device_get(state[0])


def accuracies(
    name: str, params: Any, images: np.ndarray, labels: np.ndarray, chunk: int = 512
) -> list[tuple[float, float]]:
    """Return for each label the accuracy on images [N, H, W, 3], and the mean of the accuracies of its classes."""
    predict = jax.jit(
        lambda x: [p.argmax(axis=1) for p in split_logits(name, network(name).apply({"params": params}, x)[1])]
    )
    found = [np.stack(predict(images[i : i + chunk]), axis=1) for i in range(0, len(images), chunk)]
    right = np.concatenate(found) == labels
    return [
        (float(r.mean()), float(np.mean([r[k == value].mean() for value in np.unique(k)])))
        for r, k in zip(right.T, labels.T, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Train a classifier, write it, and print its accuracies."""
    parser = argparse.ArgumentParser(description="Train a classifier of the images in the package.")
    parser.add_argument("--data", choices=list(LABELS), default="emoji")
    parser.add_argument("--out", required=True, help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    sides = load_labelled(options.data)
    params = train(options.data, *sides[0], options.steps, options.batch_size, options.seed)
    save(params, options.out)
    for side, (images, labels) in zip(("training", "held-out"), sides, strict=True):
        found = zip(LABELS[options.data], accuracies(options.data, params, images, labels), strict=True)
        accuracy_texts = (f"{label} {share:.3f} (mean over the classes {even:.3f})" for label, (share, even) in found)
        print(f"{len(images)} {side} images: accuracy of {', '.join(accuracy_texts)}")


if __name__ == "__main__":
    main()
