"""Mode `figures`: the figures of the paper for any run, and the effect of sampling settings, as captioned PNG files."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.conditioning.tasks import Denoising, SuperResolution, Task, make_task
from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset, some
from vaedm_jax.diffusion.chain import Chain, ChainName
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError, prefix_errors
from vaedm_jax.evaluation.explained import shares_and_errors
from vaedm_jax.evaluation.features import Extractor, width
from vaedm_jax.evaluation.judge import spaces
from vaedm_jax.modes.evaluate import open_models
from vaedm_jax.modes.shared.drawing import cycled, with_t_start
from vaedm_jax.modes.shared.models import load_training_images
from vaedm_jax.modes.shared.restoration import describe_ways, ways
from vaedm_jax.reporting import Progress, grid, renew_report, sample_rows, save_png, to_uint8
from vaedm_jax.sampling.inputs import PATHS, path_between
from vaedm_jax.storage.writing import write_csv

TEMPERATURES = (0.8, 0.9, 1.0, 1.1)
GUIDANCE = (0.0, 0.5, 1.0, 2.0)
Rows = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Album:
    """What the figures are drawn from.

    Attributes:
      model: the model of most figures, the first of `models`.
      models: the models that `steps.png` compares, by name.
      chain: how the figures are sampled, unless they change a setting.
      folder: where the figures are written.
    """

    model: VAEDM
    models: dict[str, VAEDM]
    config: ConfigDict
    chain: Chain
    folder: Path

    @property
    def columns(self) -> int:
        """The number of images in a row."""
        return self.config.figures.columns

    @property
    def chain_name(self) -> ChainName:
        """The name of the chain."""
        return self.chain.name(self.model.schedule)

    @cached_property
    def data(self) -> Dataset:
        """The images that the models were trained on."""
        return load_training_images(self.config, *self.models.values())

    def sample_z(self, n: int) -> np.ndarray:
        """Return n z from the prior, [n, D]."""
        return self.model.sample_z(n, self.config.sample.seed, self.chain.z_temperature)

    def sample(self, n: int, seed: int | None = None, model: VAEDM | None = None, **how) -> Samples:
        """Return n samples by the album's model and chain; `how` are other arguments of `VAEDM.sample`."""
        model, settings = model or self.model, self.config.sample
        seed = settings.seed if seed is None else seed
        x_hat = model.condition(cycled(self.data.test, 0, n), seed) if model.engine.networks.condition else None
        how = {"chain": self.chain, "batch_size": settings.batch_size, "x_hat": x_hat, **how}
        return model.sample(n, seed, progress=False, **how)


def figures(config: ConfigDict, workdir: Path) -> None:
    """Write `figures/NAME.png` and `figures/variance.csv` of a run; `steps.png` compares eval.runs."""
    check(config, to_train=False)
    models = open_models(config, workdir)
    model = next(iter(models.values()))
    (chain,) = with_t_start(model, [make_chain(config.sample)], lambda: load_training_images(config, model).train)
    model.engine.check_chain(chain)
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
    print(f"wrote {len(drawn)} figures to {album.folder}", flush=True)


def check_album(album: Album, drawn: Collection[str]) -> None:
    """Raise UserError now if a figure would fail after others have been written."""
    if not album.config.figures.steps:
        raise UserError("figures.steps = (): it must have at least one number of steps")
    for name, model in album.models.items():
        with prefix_errors(f"figures.steps: {name}: "):
            for chain in chains_of_steps(album, model):
                model.engine.check_chain(chain)
    for space in spaces(album.config.eval, album.model.config.data) if "variance" in drawn else ():
        width(space, album.model.engine.networks.size)
    if "restoration" in drawn:
        for task in restoration_tasks(album):
            task.corrupt(np.zeros((1, *album.model.engine.networks.shape), np.float32))
            chain = restoration_chain(album, task)
            for one in (chain, replace(chain, start="noise")):
                with prefix_errors(f"{task.label}: "):
                    album.model.engine.check_chain(one)
    if "restoration" in drawn or any(model.engine.networks.condition for model in album.models.values()):
        _ = album.data  # raises UserError if the images cannot be read


def applies(name: str, model: VAEDM) -> bool:
    """Return whether a model has what a figure shows."""
    networks = model.engine.networks
    if name == "guidance":
        ddpm = model.config.ddpm
        return bool(networks.has_x_hat and ddpm.cond_dropout and ddpm.objective == "diffusion")
    if name in ("z", "variance"):
        return networks.vae is not None
    return name in ("steps", "x_T", "temperature") or networks.has_x_hat


def refinement(album: Album) -> tuple[str, Rows]:
    """Draw figures 1a, 4 and 5 of the paper: x_hat and the images refined from it."""
    n, below, what = 2 * album.columns, {}, "x̂ from the VAE, and the images refined from it"
    samples = album.sample(n)
    if album.model.engine.networks.condition:
        again = album.sample(n, album.config.sample.seed + 1, x_hat=samples.x_hat)
        below = {"another_seed": again.images, "held_out": cycled(album.data.test, 0, n)}
        what = f"x̂ from held-out images by '{album.model.config.ddpm.condition}', and the images refined from it"
    return f"{what}: {album.chain_name}", sample_rows(*samples, columns=album.columns, **below)


def chains_of_steps(album: Album, model: VAEDM) -> list[Chain]:
    """Return the chains of `steps` for a model. One that has no x_hat starts from noise instead of warm."""
    start = album.chain.start if model.engine.networks.has_x_hat or album.chain.start != "warm" else "noise"
    return [replace(album.chain, steps=n, start=start) for n in album.config.figures.steps]


def steps(album: Album) -> tuple[str, Rows]:
    """Draw figure 1b of the paper: the same samples of each model with fewer and with more steps."""
    rows = []
    for name, model in album.models.items():
        for chain in chains_of_steps(album, model):
            count = len(chain.schedule(model.schedule).t)
            rows.append((f"{name}, {count}", album.sample(album.columns, model=model, chain=chain).images))
    return (
        f"samples by the number of steps: sampler {album.chain.sampler}, start of refiners {album.chain.start}",
        rows,
    )


def along_z(album: Album) -> tuple[str, Rows]:
    """Draw figure 2, left: interpolation between two z, with one x_T."""
    rows, ends = [], album.sample_z(4)
    for a, b in (ends[:2], ends[2:]):
        for path in PATHS:
            way = album.sample(album.columns, z=path_between(a, b, album.columns, path), shared=True)
            rows += [(f"x̂, {path}", way.x_hat), ("refined", way.images)]
    return f"interpolation between two z, with x_T fixed: {album.chain_name}", rows


def along_x_T(album: Album) -> tuple[str, Rows]:
    """Draw figure 2, right: interpolation between two x_T, with one z, or one x_hat if there is no VAE."""
    model, rng = album.model, np.random.default_rng(album.config.sample.seed)
    a, b = rng.standard_normal((2, *model.engine.networks.shape))
    kept = [{}]
    if model.engine.networks.condition:
        kept = [{"x_hat": np.repeat(x_hat[None], album.columns, axis=0)} for x_hat in album.sample(2).x_hat]
    elif model.engine.networks.vae:
        kept = [{"z": z} for z in album.sample_z(2)]
    rows = [
        (
            f"{next(iter(given), 'sampled')} {i + 1}, {path}",
            album.sample(album.columns, x_T=path_between(a, b, album.columns, path), shared=True, **given).images,
        )
        for i, given in enumerate(kept)
        for path in PATHS
    ]
    return f"interpolation between two x_T, with all else fixed: {album.chain_name}", rows


def variance(album: Album) -> tuple[str, Rows]:
    """Draw some z with some x_T each, and write the shares of the variance of features that z and x_T explain."""
    settings, model = album.config.figures, album.model
    z = album.sample_z(settings.z)
    images = np.stack([album.sample(len(z), seed, z=z, shared=True).images for seed in range(settings.x_T)], axis=1)
    table = []
    for space in spaces(album.config.eval, model.config.data):
        extract = Extractor(space, model.engine.mesh, album.config.sample.batch_size)
        features, _ = extract(to_uint8(images.reshape(-1, *images.shape[2:])))
        found, errors = shares_and_errors(features.reshape(*images.shape[:2], -1))
        table.append(
            {"features": space.name, **found._asdict(), **{f"{k}_error": e for k, e in errors._asdict().items()}}
        )
    write_csv(album.folder / "variance.csv", table, keep=True)
    explained = "; ".join(
        f"'{row['features']}': z {row['z']:.2f} ± {row['z_error']:.2f}, x_T {row['x_T']:.2f} ± {row['x_T_error']:.2f}, "
        f"their interaction {row['both']:.2f}"
        for row in table
    )
    x_hat = model.decode(z)
    rows = [
        (f"z {i + 1}", np.concatenate([x_hat[i : i + 1], images[i, : album.columns - 1]]))
        for i in range(min(6, len(z)))
    ]
    return f"x̂, then the same z with one x_T in each column; shares of the variance of the features {explained}", rows


def vary(album: Album, name: str, values: tuple, **how) -> Rows:
    """Return the same samples with different values of a setting."""
    return [(f"{name} {v:g}", album.sample(album.columns, **{name: v}, **how).images) for v in values]


def restoration_tasks(album: Album) -> list[Task]:
    """Return the tasks of `restoration`: that of the model's condition, or both tasks of a refiner with a VAE."""
    settings = album.config.restore
    if album.model.engine.networks.condition:
        return [make_task(settings, album.model.config.ddpm.condition)]
    return [SuperResolution(settings.factor), Denoising(settings.sigma)]


def restoration_chain(album: Album, task: Task) -> Chain:
    """Return the chain by which a task restores images."""
    return task.begin(album.chain, album.model.schedule, lambda: some(album.data.train, RULE_OF))


def restoration(album: Album) -> tuple[str, Rows]:
    """Draw figure 3b of the paper: damaged images take the place of x_hat; see `restoration.ways`."""
    rows, descriptions, settings = [], [], album.config.sample
    truth, how = some(album.data.test, album.columns), {"batch_size": settings.batch_size, "progress": False}
    for task in restoration_tasks(album):
        chain = restoration_chain(album, task)
        rows += [(way, made()) for way, made in ways(album.model, task, chain, truth, settings.seed, **how).items()]
        descriptions.append(f"{task.label}: {describe_ways(album.model, chain)}")
    return f"held-out images, damaged images, and restored images; {'; '.join(descriptions)}", [
        ("held out", truth),
        *rows,
    ]


def temperature(album: Album) -> tuple[str, Rows]:
    """Draw samples with different temperatures."""
    return f"samples by the temperature of the noise that the chain starts from: {album.chain_name}", vary(
        album, "temperature", TEMPERATURES
    )


def guidance(album: Album) -> tuple[str, Rows]:
    """Draw samples with different guidance."""
    return f"samples by the guidance towards x̂: {album.chain_name}", vary(album, "guidance", GUIDANCE)


def shared(album: Album) -> tuple[str, Rows]:
    """Draw samples with noise of their own, and with shared noise."""
    own, one = album.sample(album.columns), album.sample(album.columns, shared=True)
    rows = [("x̂", own.x_hat), ("own noise", own.images), ("shared noise", one.images)]
    return f"each x̂ refined with its own noise, and with noise that all share: {album.chain_name}", rows


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
