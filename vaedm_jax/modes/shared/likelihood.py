"""Part of mode `evaluate`: the terms of the bound on log p(x_0) of held-out images, in bits per dimension."""

import hashlib
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from PIL import Image

from vaedm_jax.api import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.data import Source
from vaedm_jax.reporting import Progress, save_png
from vaedm_jax.reporting.plots import PLAIN, STYLE, as_image
from vaedm_jax.runtime.mesh import whole_batch
from vaedm_jax.sampling.generation import Bound
from vaedm_jax.storage import Array, Damaged, read_arrays
from vaedm_jax.storage.writing import write_arrays, write_csv

BATCH = 16  # images whose bound is computed and stored at a time; each takes T evaluations
NAMES = {"z": "KL of z", "prior": "prior at T", "steps": "steps", "decoder": "decoder"}


def bits_per_dimension(config: ConfigDict, models: dict[str, VAEDM], source: Source, folder: Path) -> None:
    """Write `bits.csv`, the terms of each model with their standard errors, and `bits.png`, their plot."""
    chosen = np.random.default_rng(0).permutation(len(source))[: config.eval.bits]
    if len(chosen) < config.eval.bits:
        print(
            f"note: eval.bits = {config.eval.bits}, but only {len(chosen)} images are held out; all are used",
            flush=True,
        )
    images = np.stack([source[int(i)] for i in chosen])
    bounds = {}
    for name, model in models.items():
        bounds[name] = compute_bound(config, model, images, f"bits of {name}", folder / "bits" / f"{name}.npz")
    write_csv(folder / "bits.csv", [row(name, models[name], bound) for name, bound in bounds.items()])
    known = {
        name: model.config.ddpm.condition if model.engine.networks.condition else "" for name, model in models.items()
    }
    caption = (
        f"bound on -log p(x_0) of {len(images)} held-out images in bits per dimension; each image has every t once"
    )
    caption += "".join(f"; {name}: given '{what}' of each image" for name, what in known.items() if what)
    save_png(folder / "bits.png", plot(bounds), caption)
    for name, bound in bounds.items():
        mean, error = mean_and_error(bound.total)
        given = f", given '{known[name]}' of each" if known[name] else ""
        print(
            f"{name}: at most {mean:.3f} ± {error:.3f} bits per dimension ({len(images)} held-out images{given})",
            flush=True,
        )


def compute_bound(config: ConfigDict, model: VAEDM, images: np.ndarray, label: str, path: Path) -> Bound:
    """Return the bound of images, and store it in a file batch by batch.

    What the file of an earlier evaluation has is not computed again.
    """
    chain, seed = make_chain(config.sample), config.sample.seed
    facts = [model.engine.fingerprint, chain.variance, chain.clip, seed, hashlib.sha256(images.tobytes()).hexdigest()]
    facts += ["p(z) is the prior's"] if model.params["prior"] else []  # earlier versions used N(0, I)
    facts += [chain.cond_noise] if chain.cond_noise else []
    identity = json.dumps(facts)
    bound, size = read_bound(path, identity), whole_batch(model.engine.mesh, min(BATCH, config.sample.batch_size))
    T = model.config.ddpm.T
    with Progress(T * len(images), 0, label, noun="evaluation", unit="evaluations") as progress:
        while bound is None or len(bound.z) < len(images):
            first = 0 if bound is None else len(bound.z)
            more = model.bound(images[first : first + size], seed, first, chain, size)
            bound = more if bound is None else Bound(*(np.concatenate(p, -1) for p in zip(bound, more, strict=True)))
            write_arrays(path, bound._asdict() | {"identity": np.array(identity)})
            progress.update(T * len(bound.z))
    return Bound(*(term[..., : len(images)] for term in bound))


def read_bound(path: Path, identity: str) -> Bound | None:
    """Return the bound of the first images that was stored with this identity; None if there is none."""
    terms = {name: Array(np.float32, ("T", "N") if name == "steps" else ("N",), finite=False) for name in Bound._fields}
    try:
        arrays = read_arrays(path, {"identity": Array(str)} | terms)
    except Damaged:
        return None
    return Bound(*(arrays[name] for name in Bound._fields)) if arrays["identity"] == identity else None


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean over the images [N] and its standard error, which covers both images and noise."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def row(name: str, model: VAEDM, bound: Bound) -> dict[str, str | int | float]:
    """Return the row of a model in `bits.csv`."""
    joint = bound.total + bound.condition
    columns = {"bits": bound.total, **bound._asdict(), "steps": bound.steps.sum(0), "joint": joint}
    condition = model.config.ddpm.condition if model.engine.networks.condition else ""
    result = {"run": name, "variant": model.engine.networks.variant, "given": condition, "images": len(bound.z)}
    for key, values in columns.items():
        result[key], result[f"{key}_error"] = mean_and_error(values)
    return result


def plot(bounds: dict[str, Bound]) -> Image.Image:
    """Plot the stacked terms of each model on the left, and the terms of the steps over t on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        bottom = np.zeros(len(bounds))
        for name, label in NAMES.items():
            terms = [b.steps.sum(0).mean() if name == "steps" else getattr(b, name).mean() for b in bounds.values()]
            left.bar(list(bounds), terms, bottom=bottom, label=label, width=0.6)
            bottom += terms
        left.set_ylabel("bits per dimension")
        left.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        for name, b in bounds.items():
            mean, error = b.steps.mean(1), b.steps.std(1) / np.sqrt(b.steps.shape[1])
            t = np.arange(1, len(mean) + 1)
            right.plot(t, mean, lw=1, label=name)
            right.fill_between(t, mean - error, mean + error, alpha=0.3, lw=0)
        right.set(xscale="log", yscale="log", xlabel="t", ylabel="bits per dimension of the step")
        right.legend(frameon=False)
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_formatter(PLAIN)
        return as_image(figure)
