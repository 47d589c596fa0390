"""Mode `evaluate`: score samples of several models, samplers, starts, numbers of steps and seeds."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import flatten, make_chain, names
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset
from vaedm_jax.diffusion.chain import Chain, ChainName
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.spacing import STARTS
from vaedm_jax.errors import UserError, brief, check_choice, prefix_errors
from vaedm_jax.evaluation.judge import judges
from vaedm_jax.modes.shared.drawing import originals, stored, with_t_start
from vaedm_jax.modes.shared.models import configured, load_training_images
from vaedm_jax.reporting import Progress, counted, renew_report, to_uint8
from vaedm_jax.reporting.rows import Row
from vaedm_jax.runs.weights import model_name
from vaedm_jax.runtime import hosts
from vaedm_jax.storage import Damaged, read_json
from vaedm_jax.storage.writing import is_writer, write_whole

VAE = "vae"  # in place of a sampler: samples of the VAE, which are not refined
BLOCK = 1024  # samples of the VAE that are scored at once


@dataclass(frozen=True)
class Cell:
    """An entry of the comparison: a model, a chain and a seed. With `alone`, samples of the VAE are not refined."""

    run: str
    model: VAEDM
    chain: Chain
    seed: int
    alone: bool = False

    @property
    def name(self) -> ChainName:
        """The name of the chain."""
        if not self.alone:
            return self.chain.name(self.model.schedule)
        one = replace(self.chain, steps=1)  # the number of steps does not matter, and may be more than T
        return ChainName(VAE, "z", 0, one.name(self.model.schedule).options)

    @property
    def label(self) -> str:
        """The name of the entry, fit for files."""
        return f"{self.run}_{self.name}_seed{self.seed}"

    @property
    def nfe(self) -> int:
        """The number of evaluations of the refiner for an image."""
        return 0 if self.alone else self.chain.nfe(self.model.schedule)

    def facts(self) -> dict[str, str | int]:
        """Return the first columns of the table."""
        name, variant = self.name, self.model.engine.networks.variant
        facts = {"run": self.run, "variant": variant, "sampler": f"{name.sampler} {name.options}".strip()}
        return facts | {"start": name.start, "steps": name.steps, "nfe": self.nfe, "seed": self.seed}


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Write tables of the scores and plots to `evaluation/`. Earlier results are not computed again."""
    # Here, since Matplotlib takes a third of a second.
    from vaedm_jax.modes.shared.likelihood import bits_per_dimension
    from vaedm_jax.reporting.comparison import write_comparison

    check(config, to_train=False)
    models = open_models(config, workdir)
    for name, model in models.items() if config.eval.bits else ():  # before hours of scoring
        with prefix_errors(f"eval.bits, {name}: "):
            model.engine.check_bound(make_chain(config.sample))
    data = load_training_images(config, *models.values())
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
    """Return the models by the names of their directories or files; raise UserError if they cannot be compared."""
    if config.eval.runs and config.sample.weights:
        raise UserError(
            "sample.weights and eval.runs both name models; leave sample.weights out, and add it to eval.runs"
        )
    asked = names(config.eval.runs) or [config.sample.weights or str(workdir)]
    other = f"-{model_name(config.sample.prior)}" if config.sample.prior else ""
    found = {model_name(name) + other: configured(VAEDM.open(name, config.sample.best), config) for name in asked}
    if len(found) < len(asked):
        raise UserError(f"eval.runs = {config.eval.runs}: two runs have the same name; rename one of the directories")
    (first, model), *others = found.items()
    for name, other in others:
        mine, theirs = (flatten(m.config.data) for m in (model, other))
        for key in ("source", "path", "category", "image_size", "held_out"):
            if mine[key] != theirs[key]:
                raise UserError(
                    f"eval.runs: {first} and {name} have different data: data.{key} is {brief(repr(mine[key]))} and "
                    f"{brief(repr(theirs[key]))}; evaluate them separately"
                )
    return found


def plan(config: ConfigDict, models: dict[str, VAEDM], data: Dataset) -> list[Cell]:
    """Return all combinations that the configuration asks for; raise UserError for the first that is impossible."""
    settings = config.eval
    samplers = names(settings.samplers) or [config.sample.sampler]
    alone = VAE in samplers
    samplers = [sampler for sampler in samplers if sampler != VAE]
    if samplers and not settings.steps:
        raise UserError("eval.steps = (): it must have at least one number of steps")
    starts = names(settings.starts) or [config.sample.start]
    chains = []
    for start in starts:
        kind, t_start = re.fullmatch(r"(.*?)([0-9]{0,9})", start, re.DOTALL).groups()
        check_choice("eval.starts", kind, STARTS)
        if t_start and kind != "warm":
            raise UserError(f"eval.starts = {start!r}: only a warm start has a t of its own, such as warm{t_start}")
        for sampler in samplers:
            check_choice("eval.samplers", sampler, (*SAMPLERS, VAE))
            for steps in settings.steps:
                chain = make_chain(config.sample, sampler=sampler, start=kind, steps=steps)
                chain = make_chain(chain, t_start=int(t_start)) if t_start else chain
                chains.append(chain.within(steps) if settings.equal_nfe else chain)
    seeds = range(config.sample.seed, config.sample.seed + settings.seeds)
    cells = [
        Cell(run, model, chain, seed)
        for run, model in models.items()
        for chain in dict.fromkeys(with_t_start(model, chains, lambda: data.train))
        for seed in seeds
    ]
    for cell in cells:
        with prefix_errors(f"{cell.run}, {cell.chain.sampler}, start {cell.chain.start}: "):
            cell.model.engine.check_chain(cell.chain)
    if alone:
        z = Chain(z_temperature=config.sample.z_temperature)
        have = [(run, model) for run, model in models.items() if model.engine.networks.vae]
        cells += [Cell(run, model, z, seed, alone=True) for run, model in have for seed in seeds]
    if not cells:
        raise UserError(f"eval.samplers = {settings.samplers!r}: no model here has a VAE")
    return cells


class Scorer:
    """Scores cells and keeps the results in a folder."""

    def __init__(self, config: ConfigDict, model: VAEDM, data: Dataset, folder: Path):
        self.n, self.batch_size, self.keep_images = config.eval.n, config.sample.batch_size, config.eval.keep_images
        self.folder, self.test, place = folder, data.test, folder / "reference"
        self.judges = list(judges(config.eval, model.config.data, data, model.engine.mesh, self.batch_size, place))
        self.judged = [judge.identity for judge in self.judges]
        for reason in filter(None, (judge.too_few(self.n) for judge in self.judges)):
            print(f"note: {reason}", flush=True)

    def path(self, cell: Cell) -> Path:
        """Return the file of a cell's result. Other models, numbers of images and features have other files."""
        digest = hashlib.sha256(json.dumps(self.identity(cell)).encode()).hexdigest()[:8]
        return self.folder / "cells" / f"{cell.label}_{digest}.json"

    def identity(self, cell: Cell) -> list:
        """Return all that the result of a cell depends on."""
        how = {"alone": VAE, **cell.chain.changes} if cell.alone else cell.chain.changes
        return [cell.model.engine.fingerprint, how, cell.seed, self.n, self.judged]

    def read(self, cell: Cell) -> Row | None:
        """Return the result of a cell; None if there is none, or if it depends on something else."""
        identity, columns = read_result(self.path(cell))
        return self.row(columns) if identity == self.identity(cell) else None

    def row(self, columns: dict) -> Row | None:
        """Return the scores of these judges in a result; None if it is damaged."""
        try:
            return Row.of(columns, [judge.space.name for judge in self.judges])
        except ValueError:
            return None

    def rows(self, cells: list[Cell]) -> list[Row]:
        """Return the results of the cells, followed by results of earlier commands that are still valid.

        Of several results of one entry, such as those of a run that was trained further, only the newest counts.
        """
        models = {cell.run: cell.model.engine.fingerprint for cell in cells}
        rows = [self.read(cell) for cell in cells]
        known, newest = [row.facts for row in rows], {}
        others = set((self.folder / "cells").glob("*.json")) - {self.path(cell) for cell in cells}
        results = [(file, *read_result(file)) for file in sorted(others, key=lambda file: file.stat().st_mtime_ns)]
        results = [(file, identity, columns) for file, identity, columns in results if columns]
        for file, identity, columns in results:
            if identity[3:] == [self.n, self.judged] and models.get(columns["run"], identity[0]) == identity[0]:
                row = self.row(columns)
                if row and row.facts not in known:
                    newest[tuple(row.facts.values())] = file, row
        rows += [row for _, row in sorted(newest.values(), key=lambda found: found[0])]
        if left := len(cells) + len(results) - len(rows):
            print(
                f"note: {counted(left, 'earlier result')} in {self.folder / 'cells'}, of other weights, priors, "
                "eval.n, eval.features or eval.split, left out of this table",
                flush=True,
            )
        return rows

    def score(self, cell: Cell) -> Iterator[int]:
        """Draw the images of a cell and store its result; yield the number of images of each batch."""
        summaries = [None] * len(self.judges)
        for images in self.drawn(cell):
            summaries = [judge.add(s, images) for s, judge in zip(summaries, self.judges, strict=True)]
            yield len(images)
        pairs = zip(self.judges, summaries, strict=True)
        row = Row(cell.facts() | {"n": self.n}, {judge.space.name: judge.scores(s) for judge, s in pairs})
        result = {"identity": self.identity(cell), "row": row.columns}
        write_whole(self.path(cell), json.dumps(result, indent=1).encode())
        hosts.wait_for_all("a cell is scored")
        kept = self.images(cell)
        if not self.keep_images and is_writer() and kept.is_dir():
            shutil.rmtree(kept)
            if not any(kept.parent.iterdir()):
                kept.parent.rmdir()

    def images(self, cell: Cell) -> Path:
        """Return the folder that keeps the images of a cell while they are drawn."""
        return self.folder / "images" / cell.label

    def drawn(self, cell: Cell) -> Iterator[np.ndarray]:
        """Yield the images of a cell, uint8, in parts."""
        model, chain = cell.model, cell.chain
        if cell.alone:
            z = model.sample_z(self.n, cell.seed, chain.z_temperature, self.batch_size)
            for begin in range(0, self.n, BLOCK):
                yield to_uint8(model.decode(z[begin : begin + BLOCK], self.batch_size))
            return
        source = originals(model, lambda: self.test)
        parts = stored(model, self.n, cell.seed, chain, self.batch_size, self.images(cell), source)
        yield from (part.images for part in parts)


def read_result(path: Path) -> tuple[list, dict | None]:
    """Return identity and columns of a result; the columns are None if there is none, or if it is damaged."""
    try:
        result = read_json(path, {"identity": list, "row": {"run": str}}, nan=True)
    except Damaged:
        return [], None
    return result["identity"], result["row"]
