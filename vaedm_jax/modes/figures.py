"""Mode `figures`: the figures of the paper for any run, and what the settings of sampling do, as captioned PNG."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples, silent
from vaedm_jax.conditioning.tasks import Denoising, SuperResolution, Task, task_of
from vaedm_jax.config import chain_of
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset, some
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.images import to_uint8
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import naming
from vaedm_jax.evaluation.explained import shares_and_errors
from vaedm_jax.evaluation.features import Extractor, width
from vaedm_jax.evaluation.judge import spaces
from vaedm_jax.modes.drawing import cycled, placed
from vaedm_jax.modes.evaluate import open_models
from vaedm_jax.modes.restoring import told_of, ways
from vaedm_jax.modes.training_images import images_of
from vaedm_jax.reporting import Progress, grid, renew_report, sample_rows, save_png
from vaedm_jax.sampling.inputs import PATHS, between
from vaedm_jax.storage.writing import write_csv

TEMPERATURES = (0.8, 0.9, 1.0, 1.1)
GUIDANCE = (0.0, 0.5, 1.0, 2.0)
Rows = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Album:
    """What the figures are drawn from: a model, a chain and a seed; `models` are those that are compared, by name."""

    model: VAEDM
    models: dict[str, VAEDM]
    config: ConfigDict
    chain: Chain
    folder: Path

    @property
    def columns(self) -> int:
        return self.config.figures.columns

    @property
    def how(self) -> str:
        """What is run, by its name."""
        return self.chain.name(self.model.networks.full_schedule)

    @cached_property
    def data(self) -> Dataset:
        return images_of(self.config, *self.models.values())

    def sample_z(self, n: int) -> np.ndarray:
        return self.model.sample_z(n, self.config.sample.seed, self.chain.z_temperature)

    def sample(self, n: int, seed: int | None = None, model: VAEDM | None = None, **how) -> Samples:
        model, settings = model or self.model, self.config.sample
        seed = settings.seed if seed is None else seed
        x_hat = model.condition(cycled(self.data.test, 0, n), seed) if model.networks.condition else None
        how = {"chain": self.chain, "batch_size": settings.batch_size, "x_hat": x_hat, **how}
        return model.sample(n, seed, progress=silent, **how)


def figures(config: ConfigDict, workdir: Path) -> None:
    """Write `figures/NAME.png` of the run, and `figures/variance.csv`; eval.runs are compared in `steps.png`."""
    check(config, to_train=False)
    models = open_models(config, workdir)
    model = next(iter(models.values()))
    (chain,) = placed(model, [chain_of(config.sample)], lambda: images_of(config, model).train)
    model.check_chain(chain)
    for n in config.figures.steps:
        with naming("figures.steps: "):
            replace(chain, steps=n).schedule(model.networks.full_schedule)
    album = Album(model, models, config, chain, workdir / "figures")
    drawn = {name: draw for name, draw in FIGURES.items() if applies(name, model)}
    check_album(album, drawn)
    with Progress(len(drawn), 0, "figures", noun="figure", unit="figures") as progress:
        for i, (name, draw) in enumerate(drawn.items()):
            progress.label = f"figures, {name}"
            caption, rows = draw(album)
            picture = grid([a for _, a in rows], [label for label, _ in rows])
            save_png(album.folder / f"{name}.png", picture, caption, keep=True)
            progress.update(i + 1)
    renew_report(workdir)
    print(f"{len(drawn)} figures: {album.folder}", flush=True)


def check_album(album: Album, drawn: Collection[str]) -> None:
    """UserError for all that would refuse one of the figures after others have been written."""
    for space in spaces(album.config.eval, album.model.config.data, "random") if "variance" in drawn else ():
        width(space, album.model.networks.size)
    if "restoration" in drawn:
        for task in tasks(album):
            task.corrupt(np.zeros((1, *album.model.networks.shape), np.float32))
    if "restoration" in drawn or album.model.networks.condition:
        _ = album.data  # can be read


def applies(name: str, model: VAEDM) -> bool:
    """Whether a model has what a figure shows."""
    networks = model.networks
    if name == "guidance":
        return bool(networks.has_x_hat and model.config.ddpm.cond_dropout)
    if name in ("z", "variance"):
        return networks.vae is not None
    return name in ("steps", "x_T", "temperature") or networks.has_x_hat


def refinement(album: Album) -> tuple[str, Rows]:
    """Figures 1a, 4 and 5 of the paper."""
    n, below, what = 2 * album.columns, {}, "what the VAE generates, and what is refined from it"
    samples = album.sample(n)
    if album.model.networks.condition:
        again = album.sample(n, album.config.sample.seed + 1, x_hat=samples.x_hat)
        below = {"another_seed": again.images, "held_out": cycled(album.data.test, 0, n)}
        what = f"{album.model.config.ddpm.condition} of held-out images, and what is refined from it"
    return f"{what}: {album.how}", sample_rows(*samples, columns=album.columns, **below)


def steps(album: Album) -> tuple[str, Rows]:
    """Figure 1b: the same samples by fewer and by more steps, of each model."""
    rows = []
    for name, model in album.models.items():
        start = album.chain.start if model.networks.has_x_hat or album.chain.start != "warm" else "noise"
        for n in album.config.figures.steps:
            chain = replace(album.chain, steps=n, start=start)
            count = len(chain.schedule(model.networks.full_schedule).t)
            rows.append((f"{name}, {count}", album.sample(album.columns, model=model, chain=chain).images))
    return f"samples by the number of steps: {album.chain.sampler}; refiners from {album.chain.start}", rows


def along_z(album: Album) -> tuple[str, Rows]:
    """Figure 2, left: z on the way between two, with one x_T."""
    rows, ends = [], album.sample_z(4)
    for a, b in (ends[:2], ends[2:]):
        for path in PATHS:
            way = album.sample(album.columns, z=between(a, b, album.columns, path), shared=True)
            rows += [(f"x̂, {path}", way.x_hat), ("refined", way.images)]
    return f"z on the way between two, x_T fixed: {album.how}", rows


def along_x_T(album: Album) -> tuple[str, Rows]:
    """Figure 2, right: x_T on the way between two, with one z, or one x_hat where there is no VAE."""
    model, rng = album.model, np.random.default_rng(album.config.sample.seed)
    a, b = rng.standard_normal((2, *model.networks.shape))
    kept = [{}]
    if model.networks.condition:
        kept = [{"x_hat": np.repeat(x_hat[None], album.columns, axis=0)} for x_hat in album.sample(2).x_hat]
    elif model.networks.vae:
        kept = [{"z": z} for z in album.sample_z(2)]
    rows = [
        (
            f"{next(iter(given), 'sampled')} {i + 1}, {path}",
            album.sample(album.columns, x_T=between(a, b, album.columns, path), shared=True, **given).images,
        )
        for i, given in enumerate(kept)
        for path in PATHS
    ]
    return f"x_T on the way between two, all else fixed: {album.how}", rows


def variance(album: Album) -> tuple[str, Rows]:
    """Each of some z with each of some x_T, and the shares of the variance of features that they explain."""
    settings, model = album.config.figures, album.model
    z = album.sample_z(settings.z)
    images = np.stack([album.sample(len(z), seed, z=z, shared=True).images for seed in range(settings.x_T)], axis=1)
    table = []
    for space in spaces(album.config.eval, model.config.data, "random"):
        extract = Extractor(space, model.mesh, album.config.sample.batch_size)
        features, _ = extract(to_uint8(images.reshape(-1, *images.shape[2:])))
        found, errors = shares_and_errors(features.reshape(*images.shape[:2], -1))
        table.append(
            {"features": space.name, **found._asdict(), **{f"{k}_error": e for k, e in errors._asdict().items()}}
        )
    write_csv(album.folder / "variance.csv", table, keep=True)
    said = "; ".join(
        f"'{row['features']}': z {row['z']:.2f} ± {row['z_error']:.2f}, x_T {row['x_T']:.2f} ± {row['x_T_error']:.2f}, "
        f"both together {row['both']:.2f}"
        for row in table
    )
    x_hat = model.decode(z)
    rows = [
        (f"z {i + 1}", np.concatenate([x_hat[i : i + 1], images[i, : album.columns - 1]]))
        for i in range(min(6, len(z)))
    ]
    return f"x̂, then the same z with different x_T, which each column shares; shares of the variance of {said}", rows


def settings_of(album: Album, name: str, values: tuple, **how) -> Rows:
    """The same samples by different values of a setting."""
    return [(f"{name} {v:g}", album.sample(album.columns, **{name: v}, **how).images) for v in values]


def tasks(album: Album) -> list[Task]:
    """What pictures are restored from: what the condition leaves of them, or both that a refiner with a VAE can."""
    settings = album.config.restore
    if album.model.networks.condition:
        return [task_of(settings, album.model.config.ddpm.condition)]
    return [SuperResolution(settings.factor), Denoising(settings.sigma)]


def restoration(album: Album) -> tuple[str, Rows]:
    """Figure 3b: what was reduced, or is noisy, in place of x_hat; see `restoration.ways`."""
    rows, told = [], []
    truth, train = some(album.data.test, album.columns), some(album.data.train, RULE_OF)
    for task in tasks(album):
        chain = task.begin(album.chain, album.model.networks.full_schedule, lambda: train)
        rows += [(way, made()) for way, made in ways(album.model, task, chain, truth, progress=silent).items()]
        told.append(f"{task.label}: {told_of(album.model, chain)}")
    return f"held-out images, damaged, and what is given back; {'; '.join(told)}", [("held out", truth), *rows]


def temperature(album: Album) -> tuple[str, Rows]:
    return f"the first noise of the chain, by its temperature: {album.how}", settings_of(
        album, "temperature", TEMPERATURES
    )


def guidance(album: Album) -> tuple[str, Rows]:
    return f"guidance towards x̂: {album.how}", settings_of(album, "guidance", GUIDANCE)


def shared(album: Album) -> tuple[str, Rows]:
    own, one = album.sample(album.columns), album.sample(album.columns, shared=True)
    rows = [("x̂", own.x_hat), ("own noise", own.images), ("shared noise", one.images)]
    return f"each x̂ with its own x_T, and all with one: {album.how}", rows


FIGURES: dict[str, Callable[[Album], tuple[str, Rows]]] = {
    "refinement": refinement,
    "steps": steps,
    "z": along_z,
    "x_T": along_x_T,
    "variance": variance,
    "restoration": restoration,
    "temperature": temperature,
    "shared": shared,
    "guidance": guidance,
}
