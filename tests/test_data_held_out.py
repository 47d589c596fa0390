"""The key of an image alone decides whether it is held out, and neither side of the split is empty."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loading import load_error
from vaedm_jax.data.dataset import split


@given(st.lists(st.text(max_size=8), min_size=1, max_size=40), st.floats(0, 0.99))
@settings(deadline=None)
def test_the_sides_of_a_split_are_disjoint_complete_and_never_empty(keys, held_out):
    train, test = split(keys, held_out)
    assert train.size and test.size
    assert {*train, *test} == set(range(len(keys)))
    if len(set(keys)) > 1:
        assert not {keys[i] for i in train} & {keys[i] for i in test}


def test_a_key_stays_on_its_side_when_keys_are_added():
    keys = [f"photo {i}" for i in range(2000)]
    few = {keys[i] for i in split(keys[:1000], 0.2)[1]}
    many = {keys[i] for i in split(keys, 0.2)[1]}
    assert many & set(keys[:1000]) == few
    assert len(many) == pytest.approx(400, abs=80)


def test_the_split_is_the_same_in_every_process_and_version():
    # The SHA-256 of these letters begin with ca, 3e, 2e, 18, 3f, 25, cd, aa, de, 18.
    # Those below 4c are held out, since 4c is 0.3 of the range.
    assert split(list("abcdefghij"), 0.3)[1].tolist() == [1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize("share", [-0.1, 1.0, 5])
def test_a_held_out_share_outside_its_range_is_an_error(share):
    assert "data.held_out" in load_error(held_out=share)
