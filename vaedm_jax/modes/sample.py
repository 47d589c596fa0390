"""Mode `sample`: draw images from a run, or from weights."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset, Source
from vaedm_jax.errors import UserError
from vaedm_jax.modes.shared import drawing
from vaedm_jax.modes.shared.advice import advise, advise_spacing
from vaedm_jax.modes.shared.models import load_training_images, open_model
from vaedm_jax.reporting import Progress, counted, grid, renew_report, sample_rows, save_png
from vaedm_jax.runs.identity import OtherImages
from vaedm_jax.runs.weights import model_name
from vaedm_jax.runtime import hosts
from vaedm_jax.storage.writing import remove

SHOWN = 256  # the most images of the grid


def sample(config: ConfigDict, workdir: Path) -> None:
    """Write a grid of the first SHOWN images to `samples/NAME.png`, and all images as uint8.

    The images are the arrays `images` and `x_hat` of `samples/NAME.npz`, or PNG files in the folder `export/NAME`.
    Files of earlier commands are kept, if necessary under another name.
    """
    check(config, to_train=False)
    settings = config.sample
    model = open_model(config, workdir)
    data = cache(lambda: load_training_images(config, model))
    (chain,) = drawing.with_t_start(model, [make_chain(settings)], lambda: data().train)
    model.engine.check_chain(chain)
    train = training_images(data) if settings.nearest else None  # before the drawing, since it may raise an error
    origin, which = "run", f"run {workdir.name}"
    if settings.weights:
        origin, which = model_name(settings.weights), f"weights '{settings.weights}', not this run's"
    elif settings.best:
        origin, which = "best", f"{which}, best checkpoint"
    if settings.prior:
        origin, which = f"{origin}-{model_name(settings.prior)}", f"{which}, z from {settings.prior}"
    full = model.schedule
    name = f"{origin}_{chain.name(full)}_seed{settings.seed}"
    kept = workdir / "samples" / f"{name}.parts"
    source = drawing.originals(model, lambda: data().test)

    def parts():
        return drawing.stored(model, settings.n, settings.seed, chain, settings.batch_size, kept, source)

    first = draw_all(parts(), settings.n)
    how = chain.describe(full)
    shown = rows_below(model, first.images, data, train)
    rows = sample_rows(*first, columns=16, **shown)
    picture = grid([images for _, images in rows], [label for label, _ in rows])
    caption = f"{which}: {how}; " + ", ".join(dict.fromkeys(label for label, _ in rows))
    shown_in, as_files = workdir / "samples" / f"{name}.png", settings.files == "png"
    target = workdir / "export" / name if as_files else workdir / "samples" / f"{name}.npz"
    if new := drawing.must_write(target, shown_in, settings.n, parts):
        drawing.write_pngs(target, parts) if as_files else drawing.write_npz(target, settings.n, parts)
    advise_spacing(chain)
    if not (settings.weights or settings.best):
        advise(workdir / "ddpm", model.config.ddpm, chain)
    if new or settings.nearest or not shown_in.exists():
        save_png(shown_in, picture, caption)
    hosts.wait_for_all("all is read")
    remove(kept)
    renew_report(workdir)
    print(f"{counted(settings.n, 'image')} ({which}; {how}): {shown_in} and {target}", flush=True)
    if not new:
        print("note: these images had been drawn before; they are kept, with any others of the same seed", flush=True)


def draw_all(parts: Iterator[Samples], n: int) -> Samples:
    """Draw all parts, and return the first SHOWN images."""
    shown, count = [], 0
    with Progress(n, 0, "sample", noun="image") as progress:
        for part in parts:
            if count < SHOWN:
                shown.append(part)
            count += len(part.images)
            progress.update(count)
    return Samples(*(None if a[0] is None else np.concatenate(a)[:SHOWN] for a in zip(*shown, strict=True)))


def rows_below(
    model: VAEDM, images: np.ndarray, data: Callable[[], Dataset], train: Source | None
) -> dict[str, np.ndarray | None]:
    """Return the rows of images that the grid shows below samples: their originals, and the nearest training images."""
    found = {"held_out": drawing.cycled(data().test, 0, len(images)) if model.engine.networks.condition else None}
    if train is not None:
        found["nearest"] = nearest_images(train, images)
    return found


def training_images(data: Callable[[], Dataset]) -> Source | None:
    """Return the training images; print a note and return None if they cannot be read. Other images are an error."""
    try:
        return data().train
    except OtherImages:
        raise
    except UserError as error:
        print(f"note: without the nearest training images: {error}", flush=True)
        return None


def nearest_images(source: Source, images: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Return the image of the source with the least squared distance for each image, uint8 [N, H, W, C]."""
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
