"""Mode `prepare`: write a folder of images as records of `data.image_size`, with local processes or Apache Beam.

The records are an ordinary data set of TensorFlow Datasets (tfds). To train on them, set `data.path` to their folder.
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
from vaedm_jax.data.records import BROKEN, INFO, PLAN, Plan
from vaedm_jax.errors import UserError, reason
from vaedm_jax.reporting import Progress
from vaedm_jax.runs import rundir
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.writing import write_whole

IMAGES_A_SHARD = 4096


def prepare(config: ConfigDict, workdir: Path) -> None:
    """Write the images under `data.path` as records into `workdir`, and keep the complete files that are there."""
    check(config, to_train=False)
    plan = make_plan(config)
    check_target(plan, workdir)
    if not (workdir / INFO).is_file():
        check_readable(plan, config.data.max_pixels)
        if config.prepare.beam:
            by_beam(plan, workdir, config)
        else:
            with rundir.lock(workdir, "command"):
                by_processes(plan, workdir, config)
    written = len(records.recorded_names(workdir, plan))
    place = shown(workdir)
    print(f"wrote {written:,} images to {place}; to train on them, use --config.data.path={place}", flush=True)
    if broken := len(plan.names) - written:
        print(f"files that cannot be read: {broken:,}; see {workdir / BROKEN} for the reasons", flush=True)


def make_plan(config: ConfigDict) -> Plan:
    """Return the plan of the records; raise UserError if `data.path` is not a folder of images."""
    if not config.data.path:
        raise UserError("data.path is empty: --mode=prepare needs a folder of images, --config.data.path=DIR")
    if records.are_in(config.data.path):
        raise UserError(
            f"data.path: {config.data.path} is already prepared; --mode=prepare needs the folder of the images"
        )
    root, names = folder.list_images(config.data.path, config.data.every_format)
    shards = min(config.prepare.shards or math.ceil(len(names) / IMAGES_A_SHARD), len(names))
    return Plan(str(root), config.data.image_size, shards, names)


def check_target(plan: Plan, target: Path) -> None:
    """Raise UserError unless the target is empty, or has records of the same plan."""
    if target.resolve() == Path(plan.folder):
        raise UserError(f"--workdir={target} is the folder of the images; use another --workdir for the records")
    if not target.exists() or not any(target.iterdir()):
        return
    old = records.read_plan(target)
    if old is None:
        raise UserError(f"--workdir={target} has other files; use a new folder for the records")
    for what in ("folder", "image_size", "shards"):
        before, now = getattr(old, what), getattr(plan, what)
        if before != now:
            raise UserError(f"--workdir={target} has records with {what} = {before}, not {now}; use another --workdir")
    if old.names != plan.names:
        gone, new = len(set(old.names) - set(plan.names)), len(set(plan.names) - set(old.names))
        raise UserError(
            f"--workdir={target} has records of other images: {plan.folder} has {new} new images, and {gone} are gone; "
            "use another --workdir"
        )


def check_readable(plan: Plan, most_pixels: int) -> None:
    """Raise UserError if no image can be read. The check stops at the first image that can."""
    first = ""
    for name in plan.names:
        try:
            read(Path(plan.folder) / name, plan.image_size, most_pixels)
            return
        except UserError as error:
            first = first or str(error)
    raise UserError(f"data.path: no image in {plan.folder} can be read; the first error: {first}")


def by_processes(plan: Plan, target: Path, config: ConfigDict) -> None:
    """Write the missing shards with local processes, then the lists and the metadata of tfds."""
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
    """Write the shards in parallel; yield the number of processed images several times a second."""
    from vaedm_jax.data.shards import begin, write_shard

    count = get_context("spawn").Value("q", 0)
    with workers.pool(processes, begin, (count,)) as pool:
        pending = workers.start_shielded(lambda: {pool.submit(write_shard, *task) for task in tasks})
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for task in done:
                task.result()
            yield count.value


def by_beam(plan: Plan, target: Path, config: ConfigDict) -> None:
    """Write the records with tfds on Apache Beam, which starts again after a failure and needs a shared file system."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    except ImportError as error:
        raise UserError(
            f"prepare.beam needs Apache Beam: pip install '.[beam]', see docs/data.md ({reason(error)})"
        ) from error
    import tensorflow_datasets as tfds

    from vaedm_jax.data.shards import Images

    if target.exists():
        if any(target.iterdir()):
            raise UserError(
                f"--workdir={target} was begun without prepare.beam; continue without it, or use another --workdir"
            )
        target.rmdir()
    asked = PipelineOptions([f"--{option}" for option in config.prepare.beam.split(",")])
    runner = asked.view_as(StandardOptions).runner or "DirectRunner"
    with TemporaryDirectory() as downloads:  # nothing is downloaded, but tfds creates this folder
        Images(plan, target, config.data.max_pixels).download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(beam_runner=runner, beam_options=asked),
        )
