"""CIFAR-10 from its binary archive, prepared without TensorFlow, which the builder of tfds needs."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vaedm_jax.errors import UserError, reason
from vaedm_jax.storage.disk import full_disk, writing
from vaedm_jax.storage.paths import regular_file

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"  # tfds verifies its checksum
FOLDER = "cifar-10-batches-bin"
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, green and blue planes


class Cifar10Binary(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """CIFAR-10 as lossless images, in the order of the archive."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # else tfds imports a package to find it that may not be installed

    def __init__(self, *, archive: str = "", **options: Any):
        self.archive = archive
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        archive = self.archive and regular_file(self.archive, "data.archive", f"does not exist; download it from {URL}")
        records = read_archive(archive or download(dl_manager))
        return {part: self._generate_examples(records[part]) for part in FILES}

    def _generate_examples(self, records: np.ndarray) -> Iterator[tuple[int, dict]]:
        for i, record in enumerate(records):
            planes = record[1:].reshape(3, 32, 32)
            image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
            yield i, {"image": image, "label": int(record[0])}


def prepared(data_dir: str, archive: str) -> Cifar10Binary:
    """Return the builder of CIFAR-10, and prepare the data first if it is not in `data_dir`.

    Args:
      data_dir: the folder for prepared data; if empty, the default folder of tfds.
      archive: the archive to prepare the data from; if empty, it is downloaded.

    Raises:
      UserError: the archive cannot be downloaded, is damaged or is not the binary version, or the folder cannot be
        written.
    """

    def builder() -> Cifar10Binary:
        return Cifar10Binary(archive=archive, data_dir=data_dir or None, file_format="array_record")

    unprepared = builder()
    if not unprepared.data_path.exists():
        try:
            with writing(unprepared.data_dir):
                unprepared.download_and_prepare()
        except OSError as error:
            if full_disk(error):
                raise
            if not unprepared.data_path.exists():  # it exists if another host has prepared it on a shared disk
                raise UserError(f"CIFAR-10 cannot be prepared in {unprepared.data_dir} ({reason(error)})") from error
    return builder()


def download(manager: tfds.download.DownloadManager) -> os.PathLike:
    """Download the archive and return its path; raise UserError if that fails."""
    try:
        urlopen(Request(URL, method="HEAD"), timeout=20).close()  # fail at once: tfds would retry for minutes
        return manager.download(URL)
    except Exception as error:  # from the network, the disk or the checksum
        if full_disk(error):
            raise
        raise UserError(
            f"CIFAR-10 cannot be downloaded ({reason(error)}); download {URL} yourself and set data.archive to its path"
        ) from error


def read_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the records, uint8 [N, 3073], of 'train' and 'test'; raise UserError if the archive is damaged."""
    wanted = {f"{FOLDER}/{name}" for names in FILES.values() for name in names}
    try:
        with tarfile.open(path, "r:*") as archive:
            found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and m.name in wanted}
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"data.archive: {path} is damaged ({reason(error)}); download it again from {URL}") from error
    if missing := sorted(wanted - set(found)):
        raise UserError(f"data.archive: {path} has no {missing[0]}; it must be the binary version, {URL}")
    return {
        part: np.concatenate([records(path, name, found[f"{FOLDER}/{name}"]) for name in FILES[part]]) for part in FILES
    }


def records(path: str | os.PathLike, name: str, data: bytes) -> np.ndarray:
    """Return one file of the archive as records, uint8 [N, 3073]; raise UserError if it is not of this form."""
    if not data or len(data) % RECORD:
        raise UserError(f"data.archive: {path}: {name} has {len(data)} bytes, not a multiple of {RECORD}; see {URL}")
    table = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    if table[:, 0].max() >= len(CLASSES):
        raise UserError(f"data.archive: {path}: {name} has the label {table[:, 0].max()}, above 9; see {URL}")
    return table
