"""Mode `evaluate`: how good the samples are, over models, samplers, starts, numbers of steps and seeds."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import chain_of, flatten, names
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset
from vaedm_jax.diffusion.chain import SAMPLERS, Chain
from vaedm_jax.diffusion.images import to_uint8
from vaedm_jax.diffusion.spacing import STARTS
from vaedm_jax.errors import UserError, brief, naming, one_of
from vaedm_jax.evaluation.judge import judges
from vaedm_jax.modes.drawing import origin, placed, stored
from vaedm_jax.modes.likelihood import bits_per_dimension
from vaedm_jax.modes.training_images import images_of
from vaedm_jax.reporting import Progress, counted, renew_report
from vaedm_jax.reporting.comparison import write_comparison
from vaedm_jax.reporting.rows import Row
from vaedm_jax.runs.models import label_of
from vaedm_jax.runtime import hosts
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.writing import write_whole, writes

VAE = "vae"  # in the place of a sampler: what the VAE generates, which nothing refines
BLOCK = 1024  # images of the VAE that are scored at a time


@dataclass(frozen=True)
class Cell:
    """One entry of the comparison: a model, a way to sample, and a seed. With `alone`, only the VAE generates."""

    run: str
    model: VAEDM
    chain: Chain
    seed: int
    alone: bool = False

    @property
    def chain_name(self) -> str:
        name = self.chain.name(self.model.networks.full_schedule)
        return f"{VAE}_z_0" + "".join(f"_{limit}" for limit in name.split("_")[3:]) if self.alone else name

    @property
    def label(self) -> str:
        return f"{self.run}_{self.chain_name}_seed{self.seed}"

    @property
    def nfe(self) -> int:
        """Evaluations of the refiner for an image."""
        return 0 if self.alone else self.chain.nfe(self.model.networks.full_schedule)

    def facts(self) -> dict[str, str | int]:
        """The first columns of the table."""
        sampler, start, steps, *limit = self.chain_name.split("_")
        facts = {"run": self.run, "variant": self.model.networks.variant, "sampler": " ".join([sampler, *limit])}
        return facts | {"start": start, "steps": int(steps), "nfe": self.nfe, "seed": self.seed}


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Write `evaluation/`: tables of the scores and plots. What is there already is not computed again."""
    check(config, to_train=False)
    models = open_models(config, workdir)
    data = images_of(config, *models.values())
    cells = plan(config, models, data)
    scorer = Scorer(config, cells[0].model, data, workdir / "evaluation")
    pending = [cell for cell in cells if scorer.read(cell) is None]
    work = config.eval.n * sum(cell.nfe for cell in pending)
    print(
        f"{len(cells)} to score, {len(cells) - len(pending)} of them done; {len(pending)} x {config.eval.n:,} "
        f"images, {work:,} evaluations of the network",
        flush=True,
    )
    with Progress(work, 0, "evaluate", noun="evaluation", unit="evaluations") as progress:
        done = 0
        for i, cell in enumerate(pending):
            progress.label = f"evaluate {i + 1}/{len(pending)}, {cell.label}"
            for images in scorer.score(cell):
                done += images * cell.nfe
                progress.update(done)
    rows = scorer.rows(cells)
    titles = {judge.space.name: judge.space.title for judge in scorer.judges}
    print(write_comparison(workdir / "evaluation", rows, titles))
    print(f"tables and plots: {workdir / 'evaluation'}", flush=True)
    if config.eval.bits:
        bits_per_dimension(config, models, data.test, workdir / "evaluation")
    renew_report(workdir)


def open_models(config: ConfigDict, workdir: Path) -> dict[str, VAEDM]:
    """The models by the names of their directories or files; UserError where they do not belong together."""
    asked = names(config.eval.runs) or [config.sample.weights or str(workdir)]
    other = f"-{label_of(config.sample.prior)}" if config.sample.prior else ""
    found = {label_of(name) + other: VAEDM.open(name, config.sample.best).as_asked(config) for name in asked}
    if len(found) < len(asked):
        raise UserError(f"eval.runs = {config.eval.runs}: two have the same name; rename one of the directories")
    (first, model), *others = found.items()
    for name, other in others:
        mine, theirs = (flatten(m.config.data) for m in (model, other))
        for key in ("source", "path", "category", "image_size", "held_out"):
            if mine[key] != theirs[key]:
                raise UserError(
                    f"eval.runs: {first} and {name} are of different data: data.{key} is {brief(repr(mine[key]))} and "
                    f"{brief(repr(theirs[key]))}; compare them apart"
                )
    return found


def plan(config: ConfigDict, models: dict[str, VAEDM], data: Dataset) -> list[Cell]:
    """All combinations that are asked for; UserError names the first that cannot be."""
    settings = config.eval
    samplers = names(settings.samplers) or [config.sample.sampler]
    alone = VAE in samplers
    samplers = [sampler for sampler in samplers if sampler != VAE]
    starts = names(settings.starts) or [config.sample.start]
    chains = []
    for start in starts:
        kind, t_start = re.fullmatch(r"(.*?)([0-9]{0,9})", start, re.DOTALL).groups()
        one_of("eval.starts", kind, STARTS)
        if t_start and kind != "warm":
            raise UserError(f"eval.starts = {start!r}: only a warm start has a t of its own, such as warm{t_start}")
        for sampler in samplers:
            one_of("eval.samplers", sampler, (*SAMPLERS, VAE))
            for steps in settings.steps:
                chain = chain_of(config.sample, sampler=sampler, start=kind, steps=steps)
                chain = chain_of(chain, t_start=int(t_start)) if t_start else chain
                chains.append(chain.within(steps) if settings.equal_nfe else chain)
    seeds = range(config.sample.seed, config.sample.seed + settings.seeds)
    cells = [
        Cell(run, model, chain, seed)
        for run, model in models.items()
        for chain in dict.fromkeys(placed(model, chains, lambda: data.train))
        for seed in seeds
    ]
    for cell in cells:
        with naming(f"{cell.run}, {cell.chain.sampler}, start {cell.chain.start}: "):
            cell.model.check_chain(cell.chain)
    if alone:
        z = Chain(z_temperature=config.sample.z_temperature)
        have = [(run, model) for run, model in models.items() if model.networks.vae]
        cells += [Cell(run, model, z, seed, alone=True) for run, model in have for seed in seeds]
    if not cells:
        raise UserError(f"eval.samplers = {settings.samplers!r}: no model here has a VAE")
    return cells


class Scorer:
    """Scores cells, and keeps the results in a folder."""

    def __init__(self, config: ConfigDict, model: VAEDM, data: Dataset, folder: Path):
        self.n, self.batch_size, self.keep_images = config.eval.n, config.sample.batch_size, config.eval.keep_images
        self.folder, self.test, place = folder, data.test, folder / "reference"
        self.judges = judges(config.eval, model.config.data, data, model.mesh, self.batch_size, place)
        self.judged = [judge.identity for judge in self.judges]
        for reason in filter(None, (judge.too_few(self.n) for judge in self.judges)):
            print(f"note: {reason}", flush=True)

    def path(self, cell: Cell) -> Path:
        """Where the result of a cell is kept: apart from those by other models, numbers of images and features."""
        digest = hashlib.sha256(json.dumps(self.identity(cell)).encode()).hexdigest()[:8]
        return self.folder / "cells" / f"{cell.label}_{digest}.json"

    def identity(self, cell: Cell) -> list:
        """All that the result of a cell depends on."""
        how = {"alone": VAE, **cell.chain.changes} if cell.alone else cell.chain.changes
        return [cell.model.fingerprint, how, cell.seed, self.n, self.judged]

    def read(self, cell: Cell) -> Row | None:
        """The result of a cell, or None where it is not there, or is that of something else."""
        identity, columns = read_result(self.path(cell))
        return self.row(columns) if identity == self.identity(cell) else None

    def row(self, columns: dict) -> Row | None:
        """The line that a result has of these judges, None where it is damaged."""
        try:
            return Row.of(columns, [judge.space.name for judge in self.judges])
        except ValueError:
            return None

    def rows(self, cells: list[Cell]) -> list[Row]:
        """The results of the cells, and after them all that earlier commands have left in the folder and still hold."""
        models = {cell.run: cell.model.fingerprint for cell in cells}
        others = sorted(set((self.folder / "cells").glob("*.json")) - {self.path(cell) for cell in cells})
        rows = [self.read(cell) for cell in cells]
        results = [(identity, columns) for identity, columns in map(read_result, others) if columns]
        for identity, columns in results:
            if identity[3:] == [self.n, self.judged] and models.get(columns["run"], identity[0]) == identity[0]:
                rows += filter(None, [self.row(columns)])
        if left := len(cells) + len(results) - len(rows):
            print(
                f"note: {counted(left, 'earlier result')} in {self.folder / 'cells'}, of other weights, priors, "
                "eval.n, eval.features or eval.split, left out of this table",
                flush=True,
            )
        return rows

    def score(self, cell: Cell) -> Iterator[int]:
        """Draw the cell's images and store its result; yields how many images each batch was."""
        summaries = [None] * len(self.judges)
        for images in self.drawn(cell):
            summaries = [judge.add(s, images) for s, judge in zip(summaries, self.judges, strict=True)]
            yield len(images)
        pairs = zip(self.judges, summaries, strict=True)
        row = Row(cell.facts() | {"n": self.n}, {judge.space.name: judge.scores(s) for judge, s in pairs})
        result = {"identity": self.identity(cell), "row": row.columns}
        write_whole(self.path(cell), json.dumps(result, indent=1).encode())
        hosts.meet("a cell is scored")
        kept = self.images(cell)
        if not self.keep_images and writes() and kept.is_dir():
            shutil.rmtree(kept)
            if not any(kept.parent.iterdir()):
                kept.parent.rmdir()

    def images(self, cell: Cell) -> Path:
        """Return where the images of a cell are kept while they are drawn."""
        return self.folder / "images" / cell.label

    def drawn(self, cell: Cell) -> Iterator[np.ndarray]:
        """Yield the images of a cell, uint8, by parts."""
        model, chain = cell.model, cell.chain
        if cell.alone:
            z = model.sample_z(self.n, cell.seed, chain.z_temperature)
            for begin in range(0, self.n, BLOCK):
                yield to_uint8(model.decode(z[begin : begin + BLOCK], self.batch_size))
            return
        source = origin(model, lambda: self.test)
        parts = stored(model, self.n, cell.seed, chain, self.batch_size, self.images(cell), source)
        yield from (part.images for part in parts)


def read_result(path: Path) -> tuple[list, dict | None]:
    """Identity and columns of a result, None for the columns where there is none, or it is damaged."""
    try:
        result = read_json(path, {"identity": list, "row": {"run": str}}, nan=True)
    except Damaged:
        return [], None
    return result["identity"], result["row"]
