"""Data sets by their names in TensorFlow Datasets, read by random access, which needs no TensorFlow."""

import io
import os

import numpy as np
import tensorflow_datasets as tfds

from vaedm_jax.data import cifar10
from vaedm_jax.data.images import decode
from vaedm_jax.data.reason import reason
from vaedm_jax.data.source import Dataset, Lazy, Source, split
from vaedm_jax.errors import UserError


def load(name: str, data_dir: str, archive: str, size: int, held_out: float) -> Dataset:
    """A data set prepared before, or CIFAR-10. Held out: its 'test', else 'validation', else a share."""
    builder = cifar10.prepared(data_dir, archive) if name == "cifar10" else prepared(name, data_dir)
    check_image(name, builder.info.features)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise UserError(f"data.source: {name} has no split 'train', only {', '.join(splits)}")

    def side(part: str) -> Source:
        try:
            # The encoded bytes: tfds's own decoder takes CMYK for transparency, and knows no 16 bits.
            examples = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            obstacle = f"it was prepared as {builder.info.file_format.value}, which has no random access"
            raise UserError(how_to_prepare(name, builder.data_dir_root, obstacle)) from error
        return Lazy(examples, lambda example: decode(io.BytesIO(example["image"]), size))

    train = side("train")
    for part in ("test", "validation"):
        if part in splits:
            return Dataset(name, train, side(part))
    sides = split([str(i) for i in range(len(train))], held_out)
    return Dataset(name, *(Lazy(indices, train.__getitem__) for indices in sides))


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is on disk as array records; UserError with the remedy if it is not."""
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # tfds runs the data set's own module, which may fail in any way
        raise UserError(
            f"data.source: {name!r} is neither 'emoji' nor a data set that tfds can open ({reason(error)});"
            " see tensorflow.org/datasets for their names, or give a folder of images as data.path"
        ) from error
    if not builder.data_path.exists():
        raise UserError(how_to_prepare(name, builder.data_dir_root, "it is not prepared"))
    return builder


def how_to_prepare(name: str, data_dir: os.PathLike, obstacle: str) -> str:
    return (
        f"data.source: {name} cannot be read from {data_dir}: {obstacle}; where TensorFlow is installed,"
        f" run `tfds build {name} --file_format=array_record --data_dir=DIR`, and give DIR as data.tfds_dir"
    )


def check_image(name: str, features: tfds.features.FeaturesDict) -> None:
    """UserError unless the examples have an encoded 'image'."""
    if "image" not in features:
        raise UserError(f"data.source: {name} has no feature 'image'; its features are {', '.join(features)}")
    if not isinstance(features["image"], tfds.features.Image) or features["image"].np_dtype == np.float32:
        kind = type(features["image"]).__name__
        raise UserError(f"data.source: the 'image' of {name} is a {kind} that has no encoding of 8 or 16 bits")
