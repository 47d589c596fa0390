"""Mode `prepare`: a folder of images to records of the size that is trained on, by processes here or by Apache Beam.

The records are an ordinary data set of TensorFlow Datasets; to train on them, their folder is given as `data.path`.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ml_collections import ConfigDict

from vaedm_jax.config.checks import check
from vaedm_jax.data import folder, records, workers
from vaedm_jax.data.images import read
from vaedm_jax.data.reason import reason
from vaedm_jax.data.records import BROKEN, INFO, PLAN, Plan
from vaedm_jax.errors import UserError
from vaedm_jax.reporting import Progress
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.writing import write_whole

IMAGES_A_SHARD = 4096


def prepare(config: ConfigDict, workdir: Path) -> None:
    """Write the images under `data.path` as records into `workdir`; what is there already, and whole, stays."""
    check(config, to_train=False)
    plan = planned(config)
    refuse_other_data(plan, workdir)
    if not (workdir / INFO).is_file():
        check_some(plan)
        if config.prepare.beam:
            by_beam(plan, workdir, config)
        else:
            by_processes(plan, workdir, config)
    written = len(records.written(workdir, plan))
    place = shown(workdir)
    print(f"{written:,} images in {place}; to train on them: --config.data.path={place}", flush=True)
    if broken := len(plan.names) - written:
        print(f"files that could not be read: {broken:,}; {workdir / BROKEN} says why", flush=True)


def planned(config: ConfigDict) -> Plan:
    if not config.data.path:
        raise UserError("data.path is empty: --mode=prepare takes a folder of images, --config.data.path=DIR")
    if records.are_in(config.data.path):
        raise UserError(f"data.path: {config.data.path} is prepared; --mode=prepare takes the folder of the images")
    root, names = folder.listed(config.data.path, config.data.every_format)
    shards = min(config.prepare.shards or math.ceil(len(names) / IMAGES_A_SHARD), len(names))
    return Plan(str(root), config.data.image_size, shards, names)


def refuse_other_data(plan: Plan, target: Path) -> None:
    """UserError unless the target is this plan's, or there is nothing in it."""
    if target.resolve() == Path(plan.folder):
        raise UserError(f"--workdir={target} is the folder of the images; name another for the records")
    if not target.exists() or not any(target.iterdir()):
        return
    old = records.read_plan(target)
    if old is None:
        raise UserError(f"--workdir={target} holds other things; name a new folder for the records")
    for what in ("folder", "image_size", "shards"):
        before, now = getattr(old, what), getattr(plan, what)
        if before != now:
            raise UserError(f"--workdir={target} has records of {what} {before}, not {now}; name another --workdir")
    if old.names != plan.names:
        gone, new = len(set(old.names) - set(plan.names)), len(set(plan.names) - set(old.names))
        raise UserError(
            f"--workdir={target} has records of what was in {plan.folder} before {new} images came and {gone} went; "
            "name another --workdir"
        )


def check_some(plan: Plan) -> None:
    """UserError where no image can be read: those before the first that can are decoded twice."""
    first = ""
    for name in plan.names:
        try:
            read(Path(plan.folder) / name, plan.image_size)
            return
        except UserError as error:
            first = first or str(error)
    raise UserError(f"data.path: no image in {plan.folder} can be read; {first}")


def by_processes(plan: Plan, target: Path, config: ConfigDict) -> None:
    """Shards that are there stay; the metadata of tfds comes last."""
    from vaedm_jax.data.shards import Images

    write_whole(target / PLAN, plan.encoded())
    builder = Images(plan, target, config.data.max_pixels)
    files = [Path(file) for file in builder.template().sharded_filepaths(plan.shards)]
    tasks = [(shard, file) for shard, file in zip(builder.shards(), files, strict=True) if not file.is_file()]
    done = len(plan.names) - sum(len(shard.names) for shard, _ in tasks)
    with Progress(len(plan.names), done, "prepare", noun="image") as progress:
        for count in work(tasks, config.prepare.workers or os.cpu_count() or 1):
            progress.update(done + count)
    builder.write_lists()
    builder.write_info()
    builder.tidy()


def work(tasks: list[tuple[Any, Path]], processes: int) -> Iterator[int]:
    """Let so many processes write the shards; now and then the number of images that they have worked on."""
    from vaedm_jax.data.shards import begin, write_shard

    count = get_context("spawn").Value("q", 0)
    with workers.pool(processes, begin, (count,)) as pool:
        pending = workers.started_apart(lambda: {pool.submit(write_shard, *task) for task in tasks})
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for task in done:
                task.result()
            yield count.value


def by_beam(plan: Plan, target: Path, config: ConfigDict) -> None:
    """By tfds's own way through Apache Beam, which begins anew after a failure; its workers share the file system."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    except ImportError as error:
        raise UserError(
            f"prepare.beam needs Apache Beam: pip install '.[beam]', as docs/data.md has it ({reason(error)})"
        ) from error
    import tensorflow_datasets as tfds

    from vaedm_jax.data.shards import Images

    if target.exists():
        if any(target.iterdir()):
            raise UserError(f"--workdir={target} was begun without prepare.beam; go on without, or name another")
        target.rmdir()
    asked = PipelineOptions([f"--{option}" for option in config.prepare.beam.split(",")])
    runner = asked.view_as(StandardOptions).runner or "DirectRunner"
    with TemporaryDirectory() as downloads:  # there are none, but tfds makes a folder for them
        Images(plan, target, config.data.max_pixels).download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(beam_runner=runner, beam_options=asked),
        )
