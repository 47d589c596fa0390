"""Data sets of TensorFlow Datasets (tfds), by name or from a folder.

They are read by random access, which does not need TensorFlow.
"""

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
from vaedm_jax.data.dataset import Dataset, Lazy, Source, split
from vaedm_jax.data.images import decode
from vaedm_jax.errors import UserError, reason
from vaedm_jax.storage.paths import folder

DEFAULT_DIR = str(tfds.core.constants.DATA_DIR)  # where tfds keeps prepared data sets, if data.tfds_dir is empty


def load(name: str, data_dir: str, archive: str, size: int, held_out: float) -> Dataset:
    """Return a prepared data set, or CIFAR-10, which is prepared here if necessary.

    The images held out are its split 'test', else 'validation', else a share of 'train'.

    Raises:
      UserError: tfds does not know the name, or the data set is not prepared or cannot be read.
    """
    builder = cifar10.prepared(data_dir, archive) if name == "cifar10" else prepared(name, data_dir)
    return dataset(f"data.source: {name}", name, builder, size, held_out)


def load_path(path: str, size: int, held_out: float) -> Dataset:
    """Return the data set that tfds or mode `prepare` has written into a folder.

    Records of mode `prepare` are split by the names of the images, as the folder of images is.

    Raises:
      UserError: there is no such folder, or its records are not complete, are damaged or have another size.
    """
    root = folder(path, "data.path").resolve()
    plan = records.read_plan(root, size)
    try:
        with no_new_modules():
            builder = tfds.builder_from_directory(root)
    except Exception as error:
        raise UserError(f"data.path: {root} is not a data set that tfds can open ({reason(error)})") from error
    name, keys = (plan.name, records.recorded_names(root, plan)) if plan else (builder.name, [])
    found = dataset(f"data.path: {root}", name, builder, size, held_out, keys)
    return replace(found, place=str(root), digest=digest_dataset(builder, keys))


def digest_dataset(builder: tfds.core.DatasetBuilder, keys: Sequence[str]) -> str:
    """Return a digest of the names of the images, if known, and of the bytes and shard lengths of each split.

    The records themselves are not read, since there may be many.
    """
    splits = {name: [split.num_bytes, *split.shard_lengths] for name, split in sorted(builder.info.splits.items())}
    text = json.dumps([splits, [os.fsencode(key).hex() for key in keys]])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def dataset(
    setting: str, name: str, builder: tfds.core.DatasetBuilder, size: int, held_out: float, keys: Sequence[str] = ()
) -> Dataset:
    """Return the data set of a builder.

    Args:
      setting: the setting and its value, for the messages of errors.
      keys: if there is no split 'test' or 'validation', the images are split by these keys; by default, their indices.

    Raises:
      UserError: the data set has no images, no split 'train' or no random access, or it cannot be read.
    """
    check_image(setting, builder.info.features)
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"{setting} has no split 'train', only {', '.join(splits)}")

    def side(part: str) -> Source:
        try:
            # Get the encoded bytes, since the decoder of tfds mistakes CMYK for RGBA and does not support 16 bits.
            examples = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            obstacle = f"it was prepared as {builder.info.file_format.value}, which does not allow random access"
            raise UserError(how_to_prepare(builder.name, builder.data_dir_root, obstacle)) from error
        if missing := [file for file in splits[part].filepaths if not file.exists()]:
            raise UserError(f"{setting}: {missing[0]} does not exist; prepare the data again")
        return Lazy(range(len(examples)), partial(read, examples, part))

    def read(examples: Any, part: str, index: int) -> np.ndarray:
        with readable(f"{setting}: image {index} of '{part}'"):
            return decode(io.BytesIO(examples[index]["image"]), size)

    with readable(setting):
        for part in splits.values():
            if "://" in (away := str(next(iter(part.filepaths), ""))) and "://" not in str(builder.data_dir):
                raise UserError(
                    f"{setting}: its metadata names records elsewhere ({away}); they must be in the same folder"
                )
        train = side("train")
    for part in ("test", "validation"):
        if part in splits:
            return Dataset(name, train, side(part))
    keys = keys or [str(i) for i in range(len(train))]
    if len(keys) != len(train):
        raise UserError(f"{setting} has {len(train):,} images, but should have {len(keys):,}; prepare the data again")
    return Dataset(name, *(Lazy(indices, train.__getitem__) for indices in split(keys, held_out)))


@contextmanager
def no_new_modules() -> Iterator[None]:
    """Prevent tfds from importing modules that the metadata of a data set names as the classes of its features."""
    connector = tfds.features.FeatureConnector
    usual = connector.__dict__["cls_from_name"]

    def known(cls: type, name: str) -> type:
        module = name.rpartition(".")[0]
        if not module.startswith("tensorflow_datasets.") and module not in sys.modules:
            raise ValueError(f"its metadata names the Python class {name}, and code named by files is not run")
        return usual.__func__(cls, name)

    connector.cls_from_name = classmethod(known)
    try:
        yield
    finally:
        connector.cls_from_name = usual


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Convert every exception to UserError, since the readers of records raise many types if a file is damaged."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be read ({reason(error)}); prepare the data again") from error


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a prepared data set; raise UserError, with the remedy, if it is unknown or not prepared."""
    try:
        with no_new_modules():
            builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # tfds runs the module of the data set, which may raise anything
        raise UserError(
            f"data.source = {name!r}: must be 'emoji', 'avatars' or a data set that tfds can open"
            f" ({reason(error)}); see the names at tensorflow.org/datasets, or set data.path to a folder of images"
        ) from error
    if not builder.data_path.exists():
        raise UserError(how_to_prepare(name, builder.data_dir_root, "it is not prepared"))
    return builder


def how_to_prepare(name: str, data_dir: os.PathLike, obstacle: str) -> str:
    """Return the message for a data set that cannot be read: the obstacle, and the command that prepares it."""
    return (
        f"data.source: {name} cannot be read from {data_dir}: {obstacle}; on a machine with TensorFlow, run"
        f" `tfds build {name} --file_format=array_record --data_dir=DIR`, then set data.tfds_dir to DIR"
    )


def check_image(setting: str, features: tfds.features.FeaturesDict) -> None:
    """Raise UserError unless the examples have a feature 'image' with 8 or 16 bits."""
    if "image" not in features:
        raise UserError(f"{setting} has no feature 'image', only {', '.join(features)}")
    if not isinstance(features["image"], tfds.features.Image) or features["image"].np_dtype == np.float32:
        kind = type(features["image"]).__name__
        raise UserError(f"{setting}: its feature 'image' is a {kind}; it must be an image of 8 or 16 bits")
