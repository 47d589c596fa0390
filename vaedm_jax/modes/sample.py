"""Mode `sample`: images from a trained run, or from the weights in the package."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.config import chain_of
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset, Source
from vaedm_jax.errors import UserError
from vaedm_jax.modes import drawing
from vaedm_jax.modes.training_images import images_of
from vaedm_jax.reporting import Progress, counted, grid, renew_report, sample_rows, save_png
from vaedm_jax.runs.identity import OtherImages
from vaedm_jax.runs.models import label_of
from vaedm_jax.runtime import hosts
from vaedm_jax.storage.writing import remove

SHOWN = 256  # images that the grid has at most


def sample(config: ConfigDict, workdir: Path) -> None:
    """Write `samples/NAME.png`, a grid of the first SHOWN images, and all of them as uint8.

    They are the arrays `images` and `x_hat` of `samples/NAME.npz`, or a folder `export/NAME` of PNG files.
    What earlier commands have written stays as it is, or gets another name.
    """
    check(config, to_train=False)
    settings = config.sample
    model = VAEDM.open(settings.weights or workdir, settings.best).as_asked(config)
    data = cache(lambda: images_of(config, model))
    (chain,) = drawing.placed(model, [chain_of(settings)], lambda: data().train)
    model.check_chain(chain)
    train = training_images(data) if settings.nearest else None  # before anything is drawn, since it may refuse
    origin, which = "run", f"run {workdir.name}"
    if settings.weights:
        origin, which = label_of(settings.weights), f"weights '{settings.weights}', not this run's"
    elif settings.best:
        origin, which = "best", f"{which}, best checkpoint"
    if settings.prior:
        origin, which = f"{origin}-{label_of(settings.prior)}", f"{which}, z from {settings.prior}"
    full = model.networks.full_schedule
    name = f"{origin}_{chain.name(full)}_seed{settings.seed}"
    kept = workdir / "samples" / f"{name}.parts"
    source = drawing.origin(model, lambda: data().test)

    def parts():
        return drawing.stored(model, settings.n, settings.seed, chain, settings.batch_size, kept, source)

    first = draw_all(parts(), settings.n)
    how = chain.describe(full)
    shown = others(model, first.images, data, train)
    rows = sample_rows(*first, columns=16, **shown)
    picture = grid([images for _, images in rows], [label for label, _ in rows])
    caption = f"{which}: {how}; " + ", ".join(dict.fromkeys(label for label, _ in rows))
    shown_in, as_files = workdir / "samples" / f"{name}.png", settings.files == "png"
    target = workdir / "export" / name if as_files else workdir / "samples" / f"{name}.npz"
    if new := drawing.makes_room(target, shown_in, settings.n, parts):
        drawing.write_pngs(target, parts) if as_files else drawing.write_npz(target, settings.n, parts)
    if new or settings.nearest or not shown_in.exists():
        save_png(shown_in, picture, caption)
    hosts.meet("all is read")
    remove(kept)
    renew_report(workdir)
    print(f"{counted(settings.n, 'image')} ({which}; {how}): {shown_in} and {target}", flush=True)
    if not new:
        print("note: they were there already, and perhaps more of them, which stay", flush=True)


def draw_all(parts: Iterator[Samples], n: int) -> Samples:
    """Draw what is not there yet, and return the first SHOWN images."""
    shown, count = [], 0
    with Progress(n, 0, "sample", noun="image") as progress:
        for part in parts:
            if count < SHOWN:
                shown.append(part)
            count += len(part.images)
            progress.update(count)
    return Samples(*(None if a[0] is None else np.concatenate(a)[:SHOWN] for a in zip(*shown, strict=True)))


def others(
    model: VAEDM, images: np.ndarray, data: Callable[[], Dataset], train: Source | None
) -> dict[str, np.ndarray | None]:
    """What is shown below some images: what the model was shown something of, and what is nearest to them."""
    found = {"held_out": drawing.cycled(data().test, 0, len(images)) if model.networks.condition else None}
    if train is not None:
        found["nearest"] = nearest_images(train, images)
    return found


def training_images(data: Callable[[], Dataset]) -> Source | None:
    """Return the images to train on; None, and a note, where they cannot be read. UserError where they are others."""
    try:
        return data().train
    except OtherImages:
        raise
    except UserError as error:
        print(f"note: without the nearest training images: {error}", flush=True)
        return None


def nearest_images(source: Source, images: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """For each image [N, H, W, C] uint8 the one of the source with the least squared distance in its pixels."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    best, found = np.full(len(images), np.inf, np.float32), np.zeros_like(images)
    for begin in range(0, len(source), chunk):
        block = np.stack([source[i] for i in range(begin, min(begin + chunk, len(source)))])
        other = block.reshape(len(block), -1).astype(np.float32)
        distance = (flat**2).sum(1)[:, None] - 2 * flat @ other.T + (other**2).sum(1)[None]
        index = distance.argmin(axis=1)
        nearer = distance[np.arange(len(flat)), index] < best
        best[nearer], found[nearer] = distance[np.arange(len(flat)), index][nearer], block[index[nearer]]
    return found
