"""Data sets by their names in TensorFlow Datasets, read by random access, which needs no TensorFlow."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vaedm_jax.data import cifar10, records
from vaedm_jax.data.images import decode
from vaedm_jax.data.reason import reason
from vaedm_jax.data.source import Dataset, Lazy, Source, split
from vaedm_jax.errors import UserError
from vaedm_jax.storage.paths import folder

USUAL_PLACE = str(tfds.core.constants.DATA_DIR)  # of prepared data sets, where data.tfds_dir is empty


def load(name: str, data_dir: str, archive: str, size: int, held_out: float) -> Dataset:
    """A data set prepared before, or CIFAR-10. Held out: its 'test', else 'validation', else a share."""
    builder = cifar10.prepared(data_dir, archive) if name == "cifar10" else prepared(name, data_dir)
    return dataset(f"data.source: {name}", name, builder, size, held_out)


def load_path(path: str, size: int, held_out: float) -> Dataset:
    """The data set that was prepared in a folder, by tfds or by mode `prepare`, whose split is that of its folder."""
    root = folder(path, "data.path").resolve()
    plan = records.read_plan(root, size)
    try:
        with no_new_modules():
            builder = tfds.builder_from_directory(root)
    except Exception as error:
        raise UserError(f"data.path: {root} is no data set that tfds can open ({reason(error)})") from error
    name, keys = (plan.name, records.written(root, plan)) if plan else (builder.name, [])
    found = dataset(f"data.path: {root}", name, builder, size, held_out, keys)
    return replace(found, place=str(root), digest=digest_of(builder, keys))


def digest_of(builder: tfds.core.DatasetBuilder, keys: Sequence[str]) -> str:
    """Return what tells records from others: the names, where they are known, and what each file holds, in numbers.

    The records themselves are not read, since they may be many.
    """
    splits = {name: [split.num_bytes, *split.shard_lengths] for name, split in sorted(builder.info.splits.items())}
    text = json.dumps([splits, [os.fsencode(key).hex() for key in keys]])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def dataset(
    setting: str, name: str, builder: tfds.core.DatasetBuilder, size: int, held_out: float, keys: Sequence[str] = ()
) -> Dataset:
    """The data set of a builder; its images are split by `keys`, where there is no split for testing."""
    check_image(setting, builder.info.features)
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"{setting} has no split 'train', only {', '.join(splits)}")

    def side(part: str) -> Source:
        try:
            # The encoded bytes: tfds's own decoder takes CMYK for transparency, and knows no 16 bits.
            examples = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            obstacle = f"it was prepared as {builder.info.file_format.value}, which has no random access"
            raise UserError(how_to_prepare(builder.name, builder.data_dir_root, obstacle)) from error
        for missing in (file for file in splits[part].filepaths if not file.exists()):
            raise UserError(f"{setting}: {missing} is not there; prepare the data anew")
        return Lazy(range(len(examples)), partial(read, examples, part))

    def read(examples: Any, part: str, index: int) -> np.ndarray:
        with readable(f"{setting}: image {index} of '{part}'"):
            return decode(io.BytesIO(examples[index]["image"]), size)

    with readable(setting):
        for part in splits.values():
            if "://" in (away := str(next(iter(part.filepaths), ""))) and "://" not in str(builder.data_dir):
                raise UserError(
                    f"{setting}: its files say that its records are elsewhere ({away}); they must lie there"
                )
        train = side("train")
    for part in ("test", "validation"):
        if part in splits:
            return Dataset(name, train, side(part))
    keys = keys or [str(i) for i in range(len(train))]
    if len(keys) != len(train):
        raise UserError(f"{setting} should have {len(keys):,} images and has {len(train):,}; prepare the data anew")
    return Dataset(name, *(Lazy(indices, train.__getitem__) for indices in split(keys, held_out)))


@contextmanager
def no_new_modules() -> Iterator[None]:
    """Keep tfds from importing modules that a data set's files name as those of its features."""
    connector = tfds.features.FeatureConnector
    usual = connector.__dict__["cls_from_name"]

    def known(cls: type, name: str) -> type:
        module = name.rpartition(".")[0]
        if not module.startswith("tensorflow_datasets.") and module not in sys.modules:
            raise ValueError(f"its files name the Python class {name}, and code that files name is not run")
        return usual.__func__(cls, name)

    connector.cls_from_name = classmethod(known)
    try:
        yield
    finally:
        connector.cls_from_name = usual


@contextmanager
def readable(what: str) -> Iterator[None]:
    """UserError for whatever the readers of records raise on damaged ones."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be read ({reason(error)}); prepare the data anew") from error


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is on disk as array records; UserError with the remedy if it is not."""
    try:
        with no_new_modules():
            builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # tfds runs the data set's own module, which may fail in any way
        raise UserError(
            f"data.source: {name!r} is neither 'emoji' nor 'avatars' nor a data set that tfds can open"
            f" ({reason(error)}); see tensorflow.org/datasets for their names, or give a folder of images as data.path"
        ) from error
    if not builder.data_path.exists():
        raise UserError(how_to_prepare(name, builder.data_dir_root, "it is not prepared"))
    return builder


def how_to_prepare(name: str, data_dir: os.PathLike, obstacle: str) -> str:
    return (
        f"data.source: {name} cannot be read from {data_dir}: {obstacle}; where TensorFlow is installed,"
        f" run `tfds build {name} --file_format=array_record --data_dir=DIR`, and give DIR as data.tfds_dir"
    )


def check_image(setting: str, features: tfds.features.FeaturesDict) -> None:
    """UserError unless the examples have an encoded 'image'."""
    if "image" not in features:
        raise UserError(f"{setting} has no feature 'image'; its features are {', '.join(features)}")
    if not isinstance(features["image"], tfds.features.Image) or features["image"].np_dtype == np.float32:
        kind = type(features["image"]).__name__
        raise UserError(f"{setting}: its 'image' is a {kind} that has no encoding of 8 or 16 bits")
