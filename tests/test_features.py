"""Feature spaces for the package's own images rank them as the eye does, and depend on the image alone."""

from functools import cache

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vaedm_jax.data import avatars, emoji
from vaedm_jax.data.faces import LOOKS
from vaedm_jax.evaluation import train_classifier
from vaedm_jax.evaluation.classifier import LABELS, SHIPPED, load, network
from vaedm_jax.evaluation.features import space as space_of
from vaedm_jax.evaluation.judge import spaces
from vaedm_jax.evaluation.moments import Moments
from vaedm_jax.evaluation.random_features import kernels, random_features
from vaedm_jax.evaluation.scores import frechet_distance

# (images, feature space)
CASES = [("emoji", "emoji"), ("emoji", "random"), ("avatars", "avatars"), ("avatars", "random")]
each = pytest.mark.parametrize("of, space", CASES)
classifiers = pytest.mark.parametrize("name", LABELS)


@cache
def compiled(space):
    if space == "random":
        return jax.jit(random_features)
    return jax.jit(lambda images: network(space).apply({"params": load(space)}, images))


def features(space, images):
    return np.asarray(compiled(space)(images)[0])


@cache
def drawn(of):
    """Return training images in random order: avatars, or the emoji of people."""
    if of == "avatars":
        return avatars.sides(0.05)[0]["image"][:2144]  # as many as there are people; they are in random order
    images = emoji.sides("People & Body", 0.05)[0]["image"]
    return images[np.random.default_rng(0).permutation(len(images))]


def as_bytes(x):
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def blurred(images, sigma):
    """Blur by a Gaussian in the Fourier domain. The edges wrap around, but they are all white."""
    decay = np.exp(-2 * (np.pi * sigma * np.fft.fftfreq(32)) ** 2)
    spectrum = np.fft.fft2(images, axes=(1, 2)) * np.outer(decay, decay)[None, :, :, None]
    return as_bytes(np.fft.ifft2(spectrum, axes=(1, 2)).real)


def noisy(images, deviation):
    return as_bytes(images + deviation * np.random.default_rng(1).standard_normal(images.shape))


def reddened(images, amount):
    return as_bytes(images + np.array([amount, 0, 0]).reshape(1, 1, 1, 3))


def faded(images, share):
    """Move the colours towards grey."""
    return as_bytes(images + share * (images.mean(axis=3, keepdims=True) - images))


def coarse(images, block):
    cells = images.reshape(-1, 32 // block, block, 32 // block, block, 3).mean(axis=(2, 4))
    return as_bytes(cells.repeat(block, axis=1).repeat(block, axis=2))


def overlaid(images, share):
    """Blend each image with another one."""
    return as_bytes((1 - share) * images + share * np.roll(images, 1, axis=0))


def shuffled(images, swaps):
    """Let `swaps` blocks of 8 x 8 pixels change places."""
    out = images.reshape(-1, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 8, 8, 3)
    rng = np.random.default_rng(2)
    for image in out:
        chosen = rng.permutation(16)[:swaps]
        image[chosen] = image[np.roll(chosen, 1)]
    return out.reshape(-1, 4, 4, 8, 8, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)


def distance(space, images, reference):
    a, b = (Moments.empty(f.shape[1]).add(f) for f in (features(space, images), features(space, reference)))
    return frechet_distance(a, b)


@cache
def floor(of, space):
    """Return the distance between two random halves of the same images."""
    return distance(space, drawn(of)[::2], drawn(of)[1::2])


@each
@pytest.mark.parametrize(
    "degraded, strengths",
    [
        (blurred, (0.5, 0.7, 1, 2)),
        (noisy, (8, 16, 32)),
        (reddened, (8, 16, 32)),
        (faded, (0.2, 0.4, 1)),
        (coarse, (2, 4, 8)),
        (overlaid, (0.1, 0.25, 0.5)),
        (shuffled, (2, 4, 16)),
    ],
)
def test_the_distance_grows_with_the_damage_and_visible_damage_exceeds_chance(of, space, degraded, strengths):
    images = drawn(of)[:400]
    found = [distance(space, degraded(images, strength), images) for strength in strengths]
    assert found == sorted(found)
    assert found[1] > floor(of, space) and found[-1] > 4 * floor(of, space)


@pytest.mark.parametrize("space", ["emoji", "random"])
def test_another_category_is_further_than_held_out_images_of_the_same_category(space):
    train, held = emoji.sides("", 0.05)
    same = distance(space, held["image"][held["category"] == "People & Body"], drawn("emoji")[:400])
    for category in ("Objects", "Smileys & Emotion", "Travel & Places"):
        other = train["image"][train["category"] == category]
        assert distance(space, other, drawn("emoji")[:400]) > 1.5 * same


@pytest.mark.parametrize("space", ["avatars", "random"])
def test_the_faces_of_one_style_are_further_than_held_out_faces_of_all_styles(space):
    train, held = avatars.sides(0.05)
    reference = drawn("avatars")[:400]
    same = distance(space, held["image"], reference)
    for look in LOOKS:
        assert distance(space, train["image"][train["style"] == look.name][:200], reference) > 4 * same


@each
def test_features_of_an_image_do_not_depend_on_the_batch_and_exist_for_any_size(of, space):
    images = drawn(of)[:12]
    parts = np.concatenate([features(space, images[:5]), features(space, images[5:])])
    np.testing.assert_allclose(features(space, images), parts, rtol=1e-5, atol=1e-5)
    for H, W in ((48, 48), (33, 20)):
        found = features(space, np.random.default_rng(0).integers(0, 256, (2, H, W, 3), np.uint8))
        assert found.shape == (2, parts.shape[1]) and np.isfinite(found).all()


@each
def test_no_feature_is_constant_or_a_copy_of_others(of, space):
    correlation = np.corrcoef(features(space, drawn(of)[:400]), rowvar=False)
    assert np.linalg.eigvalsh(correlation).min() > 1e-6


@pytest.mark.parametrize(
    "name, least",
    [("emoji", [(0.78, 0.5)]), ("avatars", [(0.84, 0.79), (0.87, 0.81), (0.3, 0.16), (0.9, 0.78)])],
    ids=list(LABELS),
)
def test_held_out_images_are_classified_as_the_documentation_says(name, least):
    held = train_classifier.load_labelled(name)[1]
    found = train_classifier.accuracies(name, load(name), *held)
    assert (np.array(found) > least).all()
    assert SHIPPED[name].stat().st_size < 1e6


@classifiers
def test_the_training_command_writes_what_load_reads(name, tmp_path, capsys):
    train_classifier.main([f"--data={name}", f"--out={tmp_path / 'new'}", "--steps=3", "--batch_size=8"])
    shapes = [jax.tree.map(np.shape, params) for params in (load(name), load(name, tmp_path / "new"))]
    assert shapes[0] == shapes[1]
    assert f"{dict(emoji=212, avatars=410)[name]} held-out images: accuracy" in capsys.readouterr().out


def test_training_learns_and_is_reproducible():
    images, labels = train_classifier.load_labelled("emoji")[0]
    chosen = np.concatenate([np.flatnonzero(labels[:, 0] == k)[:40] for k in (3, 7)])  # flags and smileys
    few = images[chosen], labels[chosen]
    first, second = (train_classifier.train("emoji", *few, steps=100, batch_size=16, seed=0) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert train_classifier.accuracies("emoji", first, *few)[0][0] > 0.75


def test_the_scored_logits_are_those_of_the_first_label():
    """An Inception Score needs one distribution over classes for each image; an avatar has four labels."""
    images = drawn("avatars")[:8]
    _, scored = space_of("avatars").apply(space_of("avatars").params, images)
    _, logits = compiled("avatars")(images)
    np.testing.assert_allclose(scored, logits[:, :87], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", LABELS)
def test_images_of_the_package_are_scored_in_their_own_space(source):
    settings, of_data = ConfigDict(dict(features="", inception="")), ConfigDict(dict(source=source, path=""))
    assert [s.title for s in spaces(settings, of_data)] == [f"FD-{source}", "FD-random"]


@pytest.mark.parametrize("of_data", [dict(source="avatars", path="my/pictures"), dict(source="cifar10", path="")])
def test_images_without_a_space_of_their_own_are_scored_in_the_random_one(of_data):
    for features in ("", " , "):
        settings = ConfigDict(dict(features=features, inception=""))
        assert [s.title for s in spaces(settings, ConfigDict(of_data))] == ["FD-random"]


def test_the_random_kernels_come_from_the_frozen_stream_of_numpy():
    """The documentation of RandomState(0) gives its first draws: 1.764052, 0.400157, 0.978738."""
    first, *_ = kernels()
    np.testing.assert_allclose(first[0, 0, 0, :3] * 3, [1.764052, 0.400157, 0.978738], rtol=1e-5)
    assert np.abs(first[..., 12:].sum(axis=(0, 1))).max() < 1e-6
