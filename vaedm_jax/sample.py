"""Mode `sample`: images from a trained run, or from the weights in the package."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.config import chain_of, check
from vaedm_jax.data import Source, load
from vaedm_jax.reporting import grid, sample_rows, save_png, to_uint8, write_report
from vaedm_jax.reporting.files import write_arrays

SHOWN = 256  # images that the grid has at most


def sample(config: ConfigDict, workdir: Path) -> None:
    """Write `samples/NAME.png`, a grid, and `samples/NAME.npz`, the images as uint8 arrays `images` and `x_hat`.

    The grid has the first SHOWN images, the arrays have all.
    """
    check(config, to_train=False)
    settings = config.sample
    model = VAEDM.load(settings.weights) if settings.weights else VAEDM.from_run(workdir, settings.best)
    chain = chain_of(settings)
    samples = model.sample(settings.n, settings.seed, 0, chain, settings.batch_size)

    how = f"{chain.sampler}, {chain.steps} steps from " + {"warm": f"t = {chain.t_start}"}.get(chain.start, chain.start)
    origin, which = "run", f"run {workdir.name}"
    if settings.weights:
        origin, which = Path(settings.weights).stem, f"weights '{settings.weights}', not this run's"
    elif settings.best:
        origin, which = "best", f"{which}, best checkpoint"
    first = Samples(*(a if a is None else a[:SHOWN] for a in samples))
    nearest = None
    if settings.nearest:
        nearest = nearest_images(load(model.config.data).train, to_uint8(first.images))
    rows = sample_rows(*first, nearest, columns=16)
    name = f"{origin}_{chain.label}_seed{settings.seed}"
    picture = grid([images for _, images in rows], [label for label, _ in rows])
    caption = f"{which}: {how}; " + ", ".join(dict.fromkeys(label for label, _ in rows))
    save_png(workdir / "samples" / f"{name}.png", picture, caption)
    arrays = {name: to_uint8(a) for name, a in samples._asdict().items() if a is not None}
    write_arrays(workdir / "samples" / f"{name}.npz", arrays)
    write_report(workdir)
    print(
        f"{len(samples.images)} images ({which}; {how}): {workdir / 'samples' / name}.png and .npz",
        flush=True,
    )


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
