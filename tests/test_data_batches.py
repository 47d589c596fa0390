"""Batches are a pure function of the seed and their number, on one host or many."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaedm_jax import data
from vaedm_jax.errors import UserError


def numbered(n: int) -> np.ndarray:
    """Return n images of 4 x 4 pixels. Green is the number of the image, and red is the column of the pixel."""
    images = np.zeros((n, 4, 4, 3), np.uint8)
    images[..., 0] = np.arange(4)
    images[..., 1] = np.arange(n)[:, None, None]
    return images


def numbers(batch: np.ndarray) -> list[int]:
    return batch[:, 0, 0, 1].tolist()


def is_mirrored(batch: np.ndarray) -> np.ndarray:
    return batch[:, 0, 0, 0] == 3


@given(n=st.integers(5, 60), size=st.integers(1, 5), seed=st.integers(0, 2**31), reads=st.data())
@settings(max_examples=10, deadline=None)
def test_a_batch_depends_on_the_seed_and_its_number_alone(n, size, seed, reads):
    source = numbered(n)
    order = reads.draw(st.lists(st.integers(0, 200), min_size=1, max_size=5))
    used = data.pipeline(source, size, seed, flip=True)
    for i in order:
        np.testing.assert_array_equal(used[i], data.pipeline(source, size, seed, flip=True)[i])
        assert used[i].shape == (size, 4, 4, 3) and used[i].dtype == np.uint8


def test_threads_that_share_a_pipeline_read_the_same_batches_as_one_thread():
    ds = data.pipeline(numbered(20), 6, 0, flip=True)
    with ThreadPoolExecutor(8) as pool:
        for i, batch in enumerate(pool.map(ds.__getitem__, range(30))):
            np.testing.assert_array_equal(batch, ds[i])


def test_another_seed_gives_another_order():
    orders = [numbers(data.pipeline(numbered(50), 50, seed, flip=False)[0]) for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4


@given(n=st.integers(4, 40), size=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_every_epoch_has_each_image_once_and_a_batch_may_span_two_epochs(n, size, seed):
    ds = data.pipeline(numbered(n), size, seed, flip=True)
    seen = [number for i in range(-(-3 * n // size)) for number in numbers(ds[i])]
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_every_epoch_has_an_order_of_its_own():
    ds = data.pipeline(numbered(30), 30, 0, flip=False)
    assert len({tuple(numbers(ds[i])) for i in range(4)}) == 4


def test_a_restart_continues_where_the_first_run_would_have():
    first = data.batches(numbered(10), 4, 7, flip=True)
    whole = [next(first) for _ in range(12)]
    second = data.batches(numbered(10), 4, 7, flip=True, start=5)
    for batch in whole[5:]:
        np.testing.assert_array_equal(next(second), batch)


def test_iteration_goes_through_the_pipeline_in_order():
    ds, iterator = (make(numbered(10), 4, 7, flip=True) for make in (data.pipeline, data.batches))
    for i in range(8):
        np.testing.assert_array_equal(next(iterator), ds[i])


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_the_shards_of_the_hosts_together_are_the_batch(hosts):
    ds = data.pipeline(numbered(10), 6, 3, flip=True)
    shards = [data.batches(numbered(10), 6, 3, True, start=2, shard=(k, hosts)) for k in range(hosts)]
    for i in range(2, 6):
        np.testing.assert_array_equal(np.concatenate([next(shard) for shard in shards]), ds[i])


def test_about_half_of_the_images_are_mirrored_anew_in_every_epoch():
    source = numbered(200)
    ds = data.pipeline(source, 200, 0, flip=True)
    plain = data.pipeline(source, 200, 0, flip=False)
    flips = []
    for epoch in range(2):
        mirrored = is_mirrored(ds[epoch])
        expected = np.where(mirrored[:, None, None, None], plain[epoch][:, :, ::-1], plain[epoch])
        np.testing.assert_array_equal(ds[epoch], expected)
        assert 60 < mirrored.sum() < 140
        flips.append(mirrored[np.argsort(numbers(ds[epoch]))])
    assert (flips[0] != flips[1]).any()


def test_without_flip_nothing_is_mirrored():
    ds = data.pipeline(numbered(20), 20, 0, flip=False)
    assert not any(is_mirrored(ds[i]).any() for i in range(3))


@pytest.mark.parametrize("make", [data.pipeline, data.batches])
def test_fewer_images_than_a_batch_takes_is_an_error(make):
    assert make(numbered(4), 4, 0, False) is not None
    with pytest.raises(UserError, match=r"too few images for a batch: .*3.* 4"):
        make(numbered(3), 4, 0, False)


def test_a_batch_that_the_hosts_cannot_share_equally_is_an_error():
    with pytest.raises(UserError, match="10 images cannot be divided equally among 4 hosts"):
        data.batches(numbered(20), 10, 0, False, shard=(0, 4))


def test_the_preview_takes_evenly_spaced_images_and_repeats_none():
    assert numbers(data.preview(numbered(6), 3)) == [0, 2, 4]
    assert numbers(data.preview(numbered(5), 9)) == [0, 1, 2, 3, 4]
