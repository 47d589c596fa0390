"""The features and logits of Inception are those of torch-fidelity's own network with the same random weights."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.golden_scores import weights
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation import inception, scores
from vaedm_jax.interop import torch_file

GOLDEN = np.load(Path(__file__).parent / "golden_scores" / "inception.npz")
SIZES = ("square", "oblong")  # 32 x 32 and 37 x 53


@pytest.fixture(scope="module")
def state():
    counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.int64(0)}  # old files lack it, and nothing needs it
    return weights.random(json.loads(str(GOLDEN["shapes"]))) | counts


@pytest.fixture(scope="module")
def variables(state):
    return inception.from_state(state)


def test_features_logits_and_score_are_those_of_torch_fidelity(variables):
    apply = jax.jit(inception.InceptionV3().apply)
    found = [apply(variables, GOLDEN[size]) for size in SIZES]
    features, logits = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert features.shape == (8, 2048) and logits.shape == (8, 1008)
    for array, name in ((features, "features"), (logits, "logits")):
        errors = np.linalg.norm(array - GOLDEN[name], axis=1) / np.linalg.norm(GOLDEN[name], axis=1)
        assert errors.max() < 1e-4
    score = [float(GOLDEN[f"inception_score_{part}"]) for part in ("mean", "std")]
    assert scores.inception_score(logits, splits=2) == pytest.approx(score, rel=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_images_are_resized_as_in_tensorflow_1(size):
    found = inception.preprocess(GOLDEN[size][:2])
    assert found.shape == (2, 299, 299, 3)
    np.testing.assert_allclose(128 + 128 * found[:, ::13, ::17], GOLDEN[f"{size}_resized"], atol=1e-3)


def test_images_that_are_not_uint8_are_refused():
    with pytest.raises(UserError, match="float32"):
        inception.preprocess(np.zeros((1, 8, 8, 3), np.float32))


def load_error(path):
    with pytest.raises(UserError) as caught:
        inception.load(path)
    message = str(caught.value)
    assert str(path) in message and "pt_inception-2015-12-05-6726825d.pth" in message and "\n" not in message
    return message


def test_without_the_file_the_error_says_where_to_get_it(tmp_path):
    assert "https://github.com/mseitzer/pytorch-fid/releases" in load_error(tmp_path / "none.pth")
    with pytest.raises(UserError, match=f"eval.inception: {tmp_path} is a folder; give a file"):
        inception.load(tmp_path)


def test_a_file_with_another_hash_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "read", lambda path: pytest.fail("it was read"))
    (tmp_path / "other.pth").write_bytes(b"other")
    message = load_error(tmp_path / "other.pth")
    assert hashlib.sha256(b"other").hexdigest() in message and inception.SHA256 in message


def test_the_file_with_the_hash_is_loaded(tmp_path, monkeypatch, state, variables):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(torch_file, "read", lambda path: state)
    jax.tree.map(np.testing.assert_array_equal, inception.load(path), variables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc.bias": None}, "fc.bias is absent, in Inception it is (1008,)"),
        ({"Mixed_7c.branch3x3_2b.bn.running_var": None}, "Mixed_7c.branch3x3_2b.bn.running_var is absent"),
        ({"AuxLogits.fc.bias": np.zeros(1000)}, "AuxLogits.fc.bias is (1000,), in Inception it is absent"),
        ({"fc.weight": np.zeros((1000, 2048))}, "fc.weight is (1000, 2048), in Inception it is (1008, 2048)"),
    ],
)
def test_weights_of_another_network_are_refused(state, changes, message):
    changed = {name: array for name, array in (state | changes).items() if array is not None}
    with pytest.raises(UserError) as caught:
        inception.from_state(changed)
    assert message in str(caught.value)
