"""A full disk ends a command with one line and status 1, whichever library meets it. No partial files are left."""

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest

from tests.loading import data_config
from tests.pictures import noise, save
from tests.test_data_avatars import small
from tests.test_data_cifar10 import cifar_archive, cifar_config, cifar_files
from vaedm_jax import data
from vaedm_jax.api import Samples
from vaedm_jax.data import avatars
from vaedm_jax.data.shards import Shard, write_shard
from vaedm_jax.modes.shared.drawing import write_npz
from vaedm_jax.runtime import failures
from vaedm_jax.storage.writing import write_whole


@contextmanager
def full_after(size: int):
    """Let no file grow beyond `size` bytes. Larger files fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_told(error, place):
    message, status = failures.describe_error(error)
    assert status == 1 and "\n" not in message
    assert message.startswith(str(place)) and "free some space, and the same command continues" in message


def test_records_that_do_not_fit_are_reported_and_removed(tmp_path):
    names = tuple(f"{i}.png" for i in range(20))
    for i, name in enumerate(names):
        save(tmp_path / "images" / name, noise(64, i))
    shard = Shard(str(tmp_path / "images"), names, 64, tmp_path / "broken", 2**20)
    (tmp_path / "records").mkdir()
    with full_after(20_000), pytest.raises(OSError) as raised:
        write_shard(shard, tmp_path / "records" / "file")
    assert_told(raised.value, tmp_path / "records" / "file")
    assert not list((tmp_path / "records").iterdir())


def test_cifar10_that_does_not_fit_is_reported_and_can_be_prepared_later(tmp_path):
    files = {name: np.repeat(array, 40, axis=0) for name, array in cifar_files().items()}
    cifar_archive(archive := tmp_path / "c.tar.gz", files)
    config = data_config(**cifar_config(tmp_path, archive))
    with full_after(3_000), pytest.raises(OSError) as raised:
        data.load(config)
    assert_told(raised.value, tmp_path)
    assert len(data.load(config).train) == sum(len(files[f"data_batch_{i}.bin"]) for i in range(1, 6))


def test_faces_that_do_not_fit_on_the_disk_are_reported_and_can_be_written_later(tmp_path, monkeypatch):
    config = data_config(source="avatars", avatars=6, held_out=0.3, archive=small(tmp_path / "six.npz"))
    monkeypatch.setattr(avatars, "CACHE_BYTES", 0)
    with full_after(10_000), pytest.raises(OSError) as raised:
        data.load(config)
    assert_told(raised.value, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["six.npz"]
    assert len(data.load(config).train) == 6


@pytest.mark.parametrize("write", [lambda p: write_whole(p, bytes(9999)), lambda p: write_npz(p, 4, many)])
def test_a_file_that_does_not_fit_leaves_the_previous_one(tmp_path, write):
    (tmp_path / "file").write_bytes(b"before")
    with full_after(2_000), pytest.raises(OSError) as raised:
        write(tmp_path / "file")
    assert_told(raised.value, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"before"


def many():
    yield Samples(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognised_by_the_message_of_a_library(number):
    words = f"write() failed: {os.strerror(number)}; at byte 20"
    for error in (RuntimeError(words), ValueError(words), OSError(number, os.strerror(number))):
        assert_told(error, "disk")
    assert failures.describe_error(RuntimeError("something else")) is None
