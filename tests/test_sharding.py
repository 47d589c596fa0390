"""Training and samples are the same on any mesh, whether each device holds all parameters or a part of them."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from tests.tiny import in_float64, random_params, tiny_config
from tests.toy import fitted
from vaedm_jax.api import VAEDM
from vaedm_jax.errors import UserError
from vaedm_jax.runtime.mesh import make_mesh, shardings
from vaedm_jax.training.loop import abstract_state
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.state import TrainState, create_state
from vaedm_jax.training.step import batch_keys, make_train_step

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
MESHES = [(8, 1, False), (8, 1, True), (8, 2, False), (8, 2, True)]  # devices, model, fsdp


def doubled(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def make(name: str) -> Stage:
    """Return a stage in float64, so that rounding hides no difference."""
    config = tiny_config("form2", **{"ddpm.precision": "float64", "vae.precision": "float64"})
    stage = vae_stage(config) if name == "vae" else ddpm_stage(config, doubled(random_params(vae_stage(config), 7)))
    return replace(stage, init=lambda key: jax.tree.map(lambda a: a.astype(np.float64), stage.init(key)))


def gradient_in(state: TrainState):
    """Return Adam's mean of the gradients. After one step it is a tenth of the first gradient."""
    return next(s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))


def trained(name: str, devices: int, model: int = 1, fsdp: bool = False, steps: int = 6):
    """Return the losses, Adam's mean of the first gradient, and the parameters after some steps on a mesh."""
    with in_float64():
        stage, mesh = make(name), make_mesh(model, jax.devices()[:devices])
        state = create_state(doubled(random_params(stage, 1)), stage.settings)
        state = jax.device_put(state, shardings(mesh, state, fsdp))
        step, losses, first = make_train_step(stage, mesh, steps, fsdp), [], None
        frozen = jax.device_put(stage.frozen, shardings(mesh, stage.frozen, fsdp))
        for _ in range(steps):
            state, metrics = step(state, frozen, IMAGES, jax.random.key(3))
            losses.append(float(metrics["loss"]))
            first = jax.device_get(gradient_in(state)) if first is None else first
        return losses, first, jax.device_get(state.params)


def without_keys(path, array):
    if "['qkv']['bias']" not in jax.tree_util.keystr(path):
        return array
    return array.reshape(3, -1)[::2]  # with one head: the biases of the queries, the keys and the values


def same(found, expected):
    """Check that two trees are equal to 1e-8 of the largest value, except for the bias of the keys.

    Its gradient is 0 but for rounding, and Adam takes a step for any gradient.
    """
    found, expected = (jax.tree_util.tree_map_with_path(without_keys, tree) for tree in (found, expected))
    scale = max(np.abs(b).max() for b in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * scale), found, expected)


@pytest.fixture(scope="module", params=["vae", "ddpm"])
def alone(request):
    return request.param, trained(request.param, 1)


@pytest.mark.parametrize(("devices", "model", "fsdp"), MESHES)
def test_training_is_the_same_on_any_mesh(alone, devices, model, fsdp):
    name, (losses, *trees) = alone
    found, *others = trained(name, devices, model, fsdp)
    np.testing.assert_allclose(found, losses, rtol=1e-9)
    for ours, theirs in zip(others, trees, strict=True):
        assert max(np.abs(a).max() for a in jax.tree.leaves(theirs)) > 0
        same(ours, theirs)


def test_with_fsdp_each_device_holds_a_part_of_the_state():
    stage = ddpm_stage(tiny_config("uncond"), {})
    sizes = {}
    for fsdp in (False, True):
        like = abstract_state(stage, make_mesh(), fsdp)
        sizes[fsdp] = sum(np.prod(a.sharding.shard_shape(a.shape)) for a in jax.tree.leaves(like))
    assert sizes[True] < sizes[False] / 6
    spec = abstract_state(stage, make_mesh(2), True).params["mid_0_res"]["conv_0"]["kernel"].sharding.spec
    assert tuple(spec) == (None, None, "data", "model")


def test_a_mesh_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(UserError, match=r"mesh.model = 3: there are 8 devices"):
        make_mesh(3)


@pytest.mark.parametrize(("devices", "fsdp"), [(1, False), (4, True), (8, False)])
def test_a_checkpoint_of_eight_devices_can_be_continued_on_any_number(tmp_path, devices, fsdp):
    whole = jax.device_get(fitted(tmp_path / "whole", 6, 1))
    cut = fitted(tmp_path / "parts", 3, 8, True)
    assert cut.params["kernel"].sharding.shard_shape((768, 16)) == (96, 16)
    continued = fitted(tmp_path / "parts", 6, devices, fsdp)
    assert len(continued.params["kernel"].sharding.device_set) == devices
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), jax.device_get(continued), whole)


@pytest.mark.parametrize("model", [1, 2])
def test_each_sample_is_the_same_on_any_mesh(model):
    with in_float64():
        config = tiny_config("form2", **{"ddpm.precision": "float64", "vae.precision": "float64"})
        vae = doubled(random_params(vae_stage(config), 1))
        ddpm = doubled(random_params(ddpm_stage(config, vae), 2))
        alone, many = (
            VAEDM(config, vae, ddpm, mesh).sample(5, batch_size=8, progress=False).images
            for mesh in (make_mesh(1, jax.devices()[:1]), make_mesh(model))
        )
    np.testing.assert_allclose(many, alone, rtol=0, atol=1e-9)


def distance(a, b) -> float:
    """Return the norm of the difference of two trees, divided by the norm of the second."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]) for tree in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@cache
def gradients_of(name: str, **settings):
    """Return (bytes kept for the gradient, loss, gradient) of a batch, with some settings of the stage."""
    settings = {f"{name}.{key}": value for key, value in settings.items()}
    config = tiny_config("form2", **{"ddpm.dropout": 0.0}, **settings)
    stage = vae_stage(config) if name == "vae" else ddpm_stage(config, random_params(vae_stage(config), 7))
    params, keys = random_params(stage, 1), batch_keys(jax.random.key(3), 0, len(IMAGES))

    def loss(params):
        return stage.loss(params, stage.frozen, IMAGES, keys, None)[0]

    kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept)), value, gradient


@pytest.mark.parametrize("name", ["vae", "ddpm"])
def test_remat_keeps_fewer_bytes_and_changes_no_gradient(name):
    (kept, loss, gradient), (fewer, same_loss, same_gradient) = (gradients_of(name), gradients_of(name, remat=True))
    assert fewer < 0.6 * kept
    np.testing.assert_allclose(same_loss, loss, rtol=1e-5)
    assert distance(same_gradient, gradient) < 1e-5


@pytest.mark.parametrize("name", ["vae", "ddpm"])
def test_bfloat16_keeps_fewer_bytes_and_leaves_gradients_in_float32(name):
    (kept, loss, gradient), (fewer, low_loss, low_gradient) = (
        gradients_of(name),
        gradients_of(name, precision="bfloat16"),
    )
    assert fewer < 0.7 * kept
    np.testing.assert_allclose(low_loss, loss, rtol=0.01)
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(low_gradient))
    assert distance(low_gradient, gradient) < 0.15  # bfloat16 has eight bits, and the sums have terms of both signs
