"""A folder of images as the shards of a data set of TensorFlow Datasets, written without TensorFlow."""

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
from vaedm_jax.data.images import MOST_PIXELS, complaint, decode
from vaedm_jax.data.records import BROKEN, PLAN, Plan, read_broken
from vaedm_jax.errors import UserError
from vaedm_jax.storage.disk import writing
from vaedm_jax.storage.writing import write_whole

FORMAT = tfds.core.file_adapters.FileFormat.ARRAY_RECORD
ADAPTER = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[FORMAT]
counted: Any = None  # in a process that was started for it: the number of images that all of them have worked on


@dataclass(frozen=True)
class Shard:
    """The examples of one file, as tfds takes them; the list of images that are broken is written after the last."""

    folder: str
    names: tuple[str, ...]
    size: int
    broken: Path
    most_pixels: int

    def __call__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        broken = {}
        for name in self.names:
            try:
                pixels = decode(Path(self.folder) / name, self.size, self.most_pixels)
            except Exception as error:
                broken[name] = complaint(error)
            else:
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "png")
                yield name, {"image": png.getvalue()}
            if counted is not None:
                with counted.get_lock():
                    counted.value += 1
        write_whole(self.broken, json.dumps(broken).encode())


def features_of(size: int) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(size, size, 3), encoding_format="png")})


class Images(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A folder of images at one size, lossless, in one split; which of them are held out is for the reader to say."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # tfds would look for it with a package that it does not depend on

    def __init__(self, plan: Plan, target: Path, most_pixels: int = MOST_PIXELS):
        self.plan, self.most_pixels = plan, most_pixels
        super().__init__(data_dir=str(target), file_format=FORMAT)

    def _build_data_dir(self, data_dir: str) -> tuple[str, str]:
        return data_dir, data_dir  # without folders for the name and the version, as in tfds's ReadOnlyBuilder

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features_of(self.plan.image_size), disable_shuffling=True)

    def shards(self) -> list[Shard]:
        """Equal parts of the names, one after the other."""
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
        return self._get_filename_template("train")

    def write_lists(self) -> None:
        """The lists that lie beside the records; UserError where there is no image that could be read."""
        parts = [shard.broken for shard in self.shards()]
        broken = {name: why for part in parts for name, why in read_broken(part).items()}
        if len(broken) == len(self.plan.names):
            name, why = next(iter(broken.items()))
            raise UserError(f"data.path: no image in {self.plan.folder} can be read, such as {name} ({why})")
        write_whole(Path(self.data_dir) / BROKEN, json.dumps(broken, indent=1).encode())
        write_whole(Path(self.data_dir) / PLAN, self.plan.encoded())

    def tidy(self) -> None:
        """Remove the parts of the list of broken images."""
        for shard in self.shards():
            shard.broken.unlink()

    def write_info(self) -> None:
        """What tfds says of a data set."""
        files = self.template().sharded_filepaths(self.plan.shards)
        lengths, size = [ADAPTER.num_examples(file) for file in files], sum(file.stat().length for file in files)
        split = tfds.core.SplitInfo("train", shard_lengths=lengths, num_bytes=size, filename_template=self.template())
        self.info.set_splits(tfds.core.splits.SplitDict([split]))
        self.info.write_to_directory(self.data_dir)


def begin(count: Any) -> None:
    global counted
    workers.begin()
    counted = count


def write_shard(shard: Shard, file: Path) -> None:
    """Whole, or not at all."""
    features = features_of(shard.size)
    serialize = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info()).serialize_example
    beside = file.with_name(f".{file.name}.part")
    examples = ((name, serialize(features.encode_example(example))) for name, example in shard())
    with writing(file, beside):
        ADAPTER.write_examples(beside, examples)
        os.replace(beside, file)
