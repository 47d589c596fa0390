"""The train step and the state are the same on any mesh and with microbatches, and averages are as defined."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tiny import in_float64, random_params, tiny_config
from vaedm_jax import models
from vaedm_jax.models.layers import dropout
from vaedm_jax.runtime.mesh import in_batches, make_mesh
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.state import create_state, ema_decay, optimizer
from vaedm_jax.training.step import batch_keys, gradients, held_out_metrics, make_train_step

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)


def make_stage(name: str, variant: str = "form1", **changes) -> Stage:
    config = tiny_config(variant, **{f"{name}.batch_size": 16} | changes)
    if name == "vae":
        return vae_stage(config)
    vae_params = {} if variant == "uncond" else random_params(vae_stage(config), 7)
    return ddpm_stage(config, vae_params)


def run(stage: Stage, devices: int, steps: int = 3) -> tuple[list[float], np.ndarray]:
    """Return the losses of a few steps on so many devices, and Adam's mean of the first gradient."""
    mesh = make_mesh(1, jax.devices()[:devices])
    step = make_train_step(stage, mesh, 10)
    state, losses, moment = create_state(random_params(stage), stage.settings), [], None
    for _ in range(steps):
        state, metrics = step(state, stage.frozen, IMAGES, jax.random.key(3))
        losses.append(float(metrics["loss"]))
        if moment is None:
            (adam,) = (s for s in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(s))
            moment = flat(adam.mu)
    return losses, moment


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def relative(a, b) -> float:
    """Return the largest difference of two trees, divided by the largest value of the second."""
    a, b = flat(a), flat(b)
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(("name", "variant"), [("vae", "form1"), ("ddpm", "form2"), ("ddpm", "uncond")])
def test_losses_and_first_gradients_are_the_same_on_one_device_and_on_eight(name, variant):
    stage = make_stage(name, variant)
    (losses_1, gradient_1), (losses_8, gradient_8) = run(stage, 1), run(stage, 8)
    np.testing.assert_allclose(losses_1, losses_8, rtol=1e-5)
    assert np.abs(gradient_1).max() > 0
    assert relative(gradient_1, gradient_8) <= 1e-5


def loss_of(stage: Stage, params, frozen, images, keys, train: bool) -> tuple[jax.Array, dict]:
    return jax.jit(stage.loss, static_argnums=4)(params, frozen, jnp.asarray(images), keys, 0 if train else None)


def is_adam(node) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


@pytest.mark.parametrize(("name", "parts"), [("vae", 2), ("ddpm", 4)])
def test_microbatches_give_the_gradient_of_the_whole_batch(name, parts):
    stage = make_stage(name, **{"ddpm.dropout": 0.0})
    keys = batch_keys(jax.random.key(0), 0, len(IMAGES))
    params, images = random_params(stage), jnp.asarray(IMAGES)
    whole, parted = (
        jax.jit(lambda p, m=m: gradients(stage.loss, p, stage.frozen, images, keys, 0, m))(params) for m in (1, parts)
    )
    assert float(parted[1]["loss"]) == pytest.approx(float(whole[1]["loss"]), rel=1e-5)
    assert relative(parted[0], whole[0]) < 1e-5


def test_each_image_has_its_own_noise_in_each_step():
    stage = make_stage("ddpm", "uncond")
    params = random_params(stage)
    loss = jax.jit(lambda keys: stage.loss(params, {}, jnp.asarray(IMAGES[:1]), keys, None)[0])
    values = [float(loss(batch_keys(jax.random.key(0), step, 2)[i : i + 1])) for step in (0, 1) for i in (0, 1)]
    assert len(set(values)) == 4


def test_the_vae_loss_is_the_summed_squared_error_plus_the_weighted_kl():
    stage = make_stage("vae", **{"vae.kl_weight": 0.25, "vae.precision": "float64"})
    keys, params = batch_keys(jax.random.key(0), 0, 16), random_params(stage)
    with in_float64():  # two programs may round differently
        params = jax.tree.map(jnp.float64, params)
        loss, figures = loss_of(stage, params, {}, IMAGES, keys, True)
        held_out = jax.tree.map(np.mean, jax.jit(stage.held_out)(params, {}, IMAGES, keys))
    assert loss.dtype == np.float64
    assert float(loss) == pytest.approx(float(figures["squared_error"] + 0.25 * figures["kl"]), rel=1e-6)
    assert float(figures["squared_error"]) > 16 * 16 * 3 * 0.01  # summed over the pixels, not averaged
    assert held_out == pytest.approx({name: float(value) for name, value in {"loss": loss, **figures}.items()})


def test_a_new_unet_predicts_0_so_its_loss_is_the_variance_of_the_noise():
    stage = make_stage("ddpm", "form2")
    keys = batch_keys(jax.random.key(0), 0, 16)
    loss, _ = loss_of(stage, jax.jit(stage.init)(jax.random.key(0)), stage.frozen, IMAGES, keys, True)
    assert float(loss) == pytest.approx(1, abs=0.05)


def test_the_held_out_loss_uses_each_image_once_in_each_range_of_t_on_any_devices():
    """The loss is compared with a plain Algorithm 1, image by image and range by range."""
    changes = {"ddpm.T": 50}
    stage, config, n = make_stage("ddpm", "form2", **changes), tiny_config("form2", **changes), 8
    params, keys = random_params(stage), batch_keys(jax.random.key(0), 0, n)
    unet, vae, frozen = models.build_unet(config), models.build_vae(config), {"params": stage.frozen}
    predict = jax.jit(lambda x_t, t, x_hat: unet.apply({"params": params}, x_t, t, x_hat))
    encode = jax.jit(lambda x: vae.apply(frozen, x, method="encode"))
    decode = jax.jit(lambda z: vae.apply(frozen, z, method="decode"))
    alpha_bar = np.cumprod(1 - 1000 / 50 * np.linspace(1e-4, 0.02, 50))

    ranges = {"loss_t0_11": (0, 12), "loss_t12_24": (12, 25), "loss_t25_36": (25, 37), "loss_t37_49": (37, 50)}
    expected = {name: [] for of in ranges for name in (of, of.replace("loss", "x_0_error"))} | {"x_hat_error": []}
    for key, image in zip(keys, IMAGES[:n], strict=True):
        of_z, of_t, of_noise = (jax.random.fold_in(key, i) for i in range(3))
        x = np.float32(image)[None] / 255
        noise = np.asarray(jax.random.normal(of_noise, x.shape))
        mu, logvar = encode(x)
        x_hat = 2 * decode(mu + np.exp(logvar / 2) * jax.random.normal(of_z, mu.shape)) - 1
        expected["x_hat_error"].append(np.mean((x_hat - (2 * x - 1)) ** 2))
        for name, (low, high) in ranges.items():
            t = int(jax.random.randint(of_t, (), low, high))
            u = np.sqrt(alpha_bar[t]) * (2 * x - 1) + np.sqrt(1 - alpha_bar[t]) * noise
            eps = predict(np.float32(u + x_hat), np.array([t]), x_hat)
            x_0 = (u - np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(alpha_bar[t])
            expected[name].append(np.mean((eps - noise) ** 2))
            expected[name.replace("loss", "x_0_error")].append(np.mean((x_0 - (2 * x - 1)) ** 2))
    means = {name: np.mean(values) for name, values in expected.items()}
    means["loss"] = np.mean([means[name] for name in ranges])

    for devices in (1, 8):
        figures = held_out_metrics(stage, make_mesh(1, jax.devices()[:devices]))(params, IMAGES[:n])
        assert figures == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize(
    ("T", "names"),
    [
        (1000, ["loss", "loss_t0_249", "loss_t250_499", "loss_t500_749", "loss_t750_999"]),
        (3, ["loss", "loss_t0_0", "loss_t1_1", "loss_t2_2"]),
    ],
)
def test_the_ranges_of_t_are_named_by_their_first_and_last_step(T, names):
    stage = make_stage("ddpm", "uncond", **{"ddpm.T": T})
    figures = jax.eval_shape(stage.held_out, random_params(stage), {}, IMAGES, batch_keys(jax.random.key(0), 0, 16))
    assert [*figures] == names and all(figure.shape == (16,) for figure in figures.values())


@pytest.mark.parametrize("name", ["vae", "ddpm"])
def test_held_out_metrics_are_means_and_the_devices_share_each_microbatch(name, monkeypatch):
    """Eleven images on two devices, four at a time, give the metrics of one device with all at once."""
    stage = make_stage(name, "uncond", **{f"{name}.batch_size": 8, f"{name}.microbatches": 2})
    params, images, mesh = random_params(stage), IMAGES[:11], make_mesh(1, jax.devices()[:2])
    seen, held_out = [], stage.held_out

    def noted(params, frozen, part, keys):
        seen.append(part.shape[0])
        return held_out(params, frozen, part, keys)

    found = held_out_metrics(replace(stage, held_out=noted), mesh)(params, images)
    assert seen == [4], "one shape, which is compiled once"
    whole = jax.jit(held_out)(params, stage.frozen, images, batch_keys(jax.random.key(0), 0, 11))
    assert found == pytest.approx({name: float(np.mean(values)) for name, values in whole.items()}, rel=1e-5)
    shares = [batch.sharding.shard_shape(batch.shape)[0] for _, batch in in_batches(mesh, images, 4)]
    assert shares == [2, 2, 2]


def test_the_first_update_is_adams_with_warm_up_and_clipping():
    stage = make_stage("ddpm", **{"ddpm.learning_rate": 1e-2, "ddpm.warmup": 4, "ddpm.clip": 1e-3})
    grads = {"w": jnp.array([3.0, -4.0])}
    tx = optimizer(stage.settings, 10)
    updates, state = tx.update(grads, tx.init(grads))
    # Adam's first update is the rate times the sign. Epsilon matters, since clipping makes the gradient small.
    clipped = np.array([3.0, -4.0]) / 5 * 1e-3
    expected = -1e-2 / 4 * clipped / (np.abs(clipped) + 1e-8)
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)
    second, _ = tx.update(grads, state)
    np.testing.assert_allclose(second["w"], 2 * expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "warmup", "step", "expected"),
    [
        ("constant", False, 1, 0.99),
        ("constant", True, 1, 2 / 11),
        ("constant", True, 10_000, 0.99),
        ("byol", False, 0, 0.99),
        ("byol", False, 500, 0.995),
        ("byol", False, 1000, 1.0),
    ],
)
def test_the_decay_of_the_average_follows_its_schedule(schedule, warmup, step, expected):
    settings = tiny_config().ddpm
    settings.update({"ema_decay": 0.99, "ema_schedule": schedule, "ema_warmup": warmup})
    assert float(ema_decay(settings, step, 1000)) == pytest.approx(expected, rel=1e-6)


def test_the_average_is_the_weighted_sum_of_all_parameters_so_far():
    stage = make_stage("vae", **{"vae.ema_decay": 0.5, "vae.ema_warmup": False, "vae.learning_rate": 1e-2})
    mesh = make_mesh(1, jax.devices()[:1])
    step, state = make_train_step(stage, mesh, 10), create_state(random_params(stage), stage.settings)
    expected = jax.device_get(state.params)
    for _ in range(3):
        state, _ = step(state, {}, IMAGES, jax.random.key(3))
        expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * np.asarray(p), expected, state.params)
    assert relative(jax.device_get(state.average), expected) < 1e-5
    assert relative(jax.device_get(state.params), expected) > 1e-3


def test_the_loss_of_a_refiner_depends_on_its_vae_and_a_plain_ddpm_has_none():
    stage, keys = make_stage("ddpm", "form1"), batch_keys(jax.random.key(3), 0, 16)
    params, other = random_params(stage), jax.tree.map(lambda p: p + 0.5, stage.frozen)
    assert loss_of(stage, params, stage.frozen, IMAGES, keys, False) != loss_of(
        stage, params, other, IMAGES, keys, False
    )
    assert make_stage("ddpm", "uncond").frozen == {}


@pytest.mark.parametrize("variant", ["form1", "form2"])
def test_z_can_condition_the_refiner(variant):
    """Two further layers add z to the time embedding, and the gradient reaches both."""
    stage = make_stage("ddpm", variant, **{"ddpm.z_conditioning": True, "ddpm.scale_shift": True})
    params, keys = random_params(stage), batch_keys(jax.random.key(0), 0, 2)
    images = jnp.asarray(IMAGES[:2])
    grads, _ = jax.jit(lambda p: gradients(stage.loss, p, stage.frozen, images, keys, 0, 1))(params)
    assert params["z_0"]["kernel"].shape[0] == 4
    assert np.abs(grads["z_0"]["kernel"]).max() > 0 and np.abs(grads["z_1"]["kernel"]).max() > 0


@pytest.mark.parametrize("variant", ["form1", "form2"])
def test_conditions_are_dropped_for_each_image_separately_and_only_in_training(variant):
    def losses(rate, train=True):
        """Return the loss of each image by itself."""
        stage = make_stage("ddpm", variant, **{"ddpm.cond_dropout": rate, "ddpm.dropout": 0.0})
        params, keys = random_params(stage), batch_keys(jax.random.key(0), 0, 16)
        alone = jax.vmap(lambda *image: stage.loss(params, stage.frozen, *image, 0 if train else None)[0])
        singly = np.array(jax.jit(alone)(IMAGES[:, None], keys[:, None]))
        whole = float(loss_of(stage, params, stage.frozen, IMAGES, keys, train)[0])
        assert whole == pytest.approx(np.mean(singly), rel=1e-4)
        return singly

    never, always, half = losses(0.0), losses(1.0), losses(0.5)
    assert np.abs(never - always).min() > 1e-4
    dropped = np.abs(half - always) < np.abs(half - never)
    np.testing.assert_allclose(half, np.where(dropped, always, never), rtol=1e-5)
    assert 3 <= dropped.sum() <= 13
    np.testing.assert_allclose(losses(1.0, train=False), never, rtol=1e-5)


def test_dropout_blanks_elements_independently_at_its_rate_and_keeps_the_mean():
    rate, x = 0.1, jnp.ones((64, 16, 16, 8))
    words = jax.random.bits(jax.random.key(0), (4, len(x), 2), jnp.uint32)
    kept = np.asarray(jax.jit(lambda words: jnp.stack([dropout(x, rate, pairs) for pairs in words]))(words))
    assert {*np.unique(kept)} == {np.float32(0), np.float32(1 / (1 - rate))}
    centred = ((kept == 0) - rate) / np.sqrt(rate * (1 - rate))
    within = 5 / np.sqrt(kept.size)
    assert abs(centred.mean()) < within
    for axis, name in enumerate(["words", "image", "row", "column", "channel"]):
        for distance in (1, kept.shape[axis] // 2):
            assert abs(np.mean(centred * np.roll(centred, distance, axis))) < within, (name, distance)


def test_a_packed_vae_has_the_same_loss_and_gradients():
    keys = batch_keys(jax.random.key(0), 0, len(IMAGES))
    stages = [make_stage("vae", **{"vae.packed": packed}) for packed in (False, True)]
    params, images = random_params(stages[0]), jnp.asarray(IMAGES)
    plain, packed = (jax.jit(lambda p, s=s: gradients(s.loss, p, {}, images, keys, 0, 1))(params) for s in stages)
    assert float(packed[1]["loss"]) == pytest.approx(float(plain[1]["loss"]), rel=1e-5)
    assert relative(packed[0], plain[0]) < 1e-5
    assert jax.tree.map(jnp.shape, jax.eval_shape(stages[1].init, keys[0])) == jax.tree.map(jnp.shape, params)
