"""Write a folder of images as the shards of a data set of TensorFlow Datasets (tfds), without TensorFlow."""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from vaedm_jax.data import workers
from vaedm_jax.data.images import MOST_PIXELS, decode, why_unreadable
from vaedm_jax.data.records import BROKEN, PLAN, Plan, read_broken
from vaedm_jax.errors import UserError
from vaedm_jax.storage.disk import writing
from vaedm_jax.storage.writing import write_whole

FORMAT = tfds.core.file_adapters.FileFormat.ARRAY_RECORD
ADAPTER = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[FORMAT]
counted: Any = None  # in a worker process: a shared counter of the images that all workers have processed


@dataclass(frozen=True)
class Shard:
    """The images of one file of records.

    Attributes:
      folder: the folder of the images.
      names: the names of the images in it.
      size: the size of the records in pixels.
      broken: the file for the images that cannot be read, a JSON object of names and reasons.
      most_pixels: the largest number of pixels of an image.
    """

    folder: str
    names: tuple[str, ...]
    size: int
    broken: Path
    most_pixels: int

    def __call__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the examples as tfds takes them, and write the list of broken images after the last."""
        broken = {}
        for name in self.names:
            try:
                pixels = decode(Path(self.folder) / name, self.size, self.most_pixels)
            except Exception as error:
                broken[name] = why_unreadable(error)
            else:
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "png")
                yield name, {"image": png.getvalue()}
            if counted is not None:
                with counted.get_lock():
                    counted.value += 1
        write_whole(self.broken, json.dumps(broken).encode())


def tfds_features(size: int) -> tfds.features.FeaturesDict:
    """Return the features of the records: an image of this size, encoded as PNG."""
    return tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(size, size, 3), encoding_format="png")})


class Images(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The builder of a data set from a folder of images: lossless, of one size, in one split.

    The images held out are chosen when the records are read.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # else tfds imports a package to find it that may not be installed

    def __init__(self, plan: Plan, target: Path, most_pixels: int = MOST_PIXELS):
        self.plan, self.most_pixels = plan, most_pixels
        super().__init__(data_dir=str(target), file_format=FORMAT)

    def _build_data_dir(self, data_dir: str) -> tuple[str, str]:
        return data_dir, data_dir  # no subfolders for name and version, as in ReadOnlyBuilder of tfds

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds_features(self.plan.image_size), disable_shuffling=True)

    def shards(self) -> list[Shard]:
        """Return the shards: consecutive parts of the names, of equal length."""
        plan, place = self.plan, Path(self.data_dir)
        bounds = [len(plan.names) * i // plan.shards for i in range(plan.shards + 1)]
        return [
            Shard(
                plan.folder, tuple(plan.names[a:b]), plan.image_size, place / f"broken-{i:05d}.json", self.most_pixels
            )
            for i, (a, b) in enumerate(pairwise(bounds))
        ]

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Shard]]:
        return {"train": self.shards()}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        self.write_lists()
        self.tidy()

    def template(self) -> Any:
        """Return the template of the file names of the shards."""
        return self._get_filename_template("train")

    def write_lists(self) -> None:
        """Write the two lists beside the records; raise UserError if no image could be read."""
        parts = [shard.broken for shard in self.shards()]
        broken = {name: why for part in parts for name, why in read_broken(part).items()}
        if len(broken) == len(self.plan.names):
            name, why = next(iter(broken.items()))
            raise UserError(f"data.path: no image in {self.plan.folder} can be read; the first is {name} ({why})")
        write_whole(Path(self.data_dir) / BROKEN, json.dumps(broken, indent=1).encode())
        write_whole(Path(self.data_dir) / PLAN, self.plan.encoded())

    def tidy(self) -> None:
        """Remove the lists of broken images of the single shards."""
        for shard in self.shards():
            shard.broken.unlink()

    def write_info(self) -> None:
        """Write the metadata of tfds."""
        files = self.template().sharded_filepaths(self.plan.shards)
        lengths, size = [ADAPTER.num_examples(file) for file in files], sum(file.stat().length for file in files)
        split = tfds.core.SplitInfo("train", shard_lengths=lengths, num_bytes=size, filename_template=self.template())
        self.info.set_splits(tfds.core.splits.SplitDict([split]))
        self.info.write_to_directory(self.data_dir)


def begin(count: Any) -> None:
    """Initialise a worker process.

    Args:
      count: the shared counter of images; see `counted`.
    """
    global counted
    workers.begin()
    counted = count


def write_shard(shard: Shard, file: Path) -> None:
    """Write a shard to a file. If writing fails, no file is left."""
    features = tfds_features(shard.size)
    serialize = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info()).serialize_example
    beside = file.with_name(f".{file.name}.part")
    examples = ((name, serialize(features.encode_example(example))) for name, example in shard())
    with writing(file, beside):
        ADAPTER.write_examples(beside, examples)
        os.replace(beside, file)
