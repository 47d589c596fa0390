"""One program on any mesh: the same training and the same samples, with parameters everywhere or cut."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.tiny import random_params, tiny_config
from vaedm_jax.errors import UserError
from vaedm_jax.mesh import make_mesh, placement
from vaedm_jax.training.loop import abstract_state
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.state import TrainState, create_state
from vaedm_jax.training.step import make_train_step

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
MESHES = [(2, 1, False), (4, 1, True), (8, 1, False), (8, 1, True), (8, 2, False), (8, 2, True)]  # devices, model, fsdp


def in_float64():
    """jax.enable_x64 under either of its names."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


def doubled(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def make(name: str) -> Stage:
    """A stage in float64, where rounding does not hide a difference."""
    config = tiny_config("form2", **{"ddpm.dropout": 0.0, "ddpm.ema_schedule": "constant"})
    stage = vae_stage(config) if name == "vae" else ddpm_stage(config, doubled(random_params(vae_stage(config), 7)))
    return replace(stage, init=lambda key: jax.tree.map(lambda a: a.astype(np.float64), stage.init(key)))


def gradient_in(state: TrainState):
    """Adam's mean of the gradients, which is a tenth of the first after one step."""
    return next(s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))


def trained(name: str, devices: int, model: int = 1, fsdp: bool = False, steps: int = 20):
    """Losses, the first gradient as Adam has it, and the weights after some steps on a mesh."""
    with in_float64():
        stage, mesh = make(name), make_mesh(model, jax.devices()[:devices])
        state = create_state(doubled(random_params(stage, 1)), stage.settings)
        state = jax.device_put(state, placement(mesh, state, fsdp))
        step, losses, first = make_train_step(stage, mesh, steps, fsdp), [], None
        frozen = jax.device_put(stage.frozen, placement(mesh, stage.frozen, fsdp))
        for _ in range(steps):
            state, metrics = step(state, frozen, IMAGES, jax.random.key(3))
            losses.append(float(metrics["loss"]))
            first = jax.device_get(gradient_in(state)) if first is None else first
        return losses, first, jax.device_get(state.params)


def without_keys(path, array):
    if "['qkv']['bias']" not in jax.tree_util.keystr(path):
        return array
    return array.reshape(3, -1)[::2]  # one head: those of the queries, keys and values one after the other


def same(found, expected):
    """Equal to 1e-8 of the largest value, but for the bias of the keys, whose gradient is zero but for rounding.

    Attention takes its softmax in float32, and Adam makes a step of any gradient.
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
        same(ours, theirs)


def test_a_cut_state_takes_a_share_of_the_memory_of_each_device():
    stage = ddpm_stage(tiny_config("uncond"), {})
    sizes = {}
    for fsdp in (False, True):
        like = abstract_state(stage, make_mesh(), fsdp)
        sizes[fsdp] = sum(np.prod(a.sharding.shard_shape(a.shape)) for a in jax.tree.leaves(like))
    assert sizes[True] < sizes[False] / 6
    spec = abstract_state(stage, make_mesh(2), True).params["mid_0_res"]["conv_0"]["kernel"].sharding.spec
    assert tuple(spec) == (None, None, "data", "model")


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"mesh.model = 3: there are 8 devices"):
        make_mesh(3)
