"""A VAE with several layers of latents: its posterior, its divergence, and stage 2, which works as for one layer."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import FIVE_STEPS, apply, random_params, tiny_config
from vaedm_jax import VAEDM, models
from vaedm_jax.main import main
from vaedm_jax.models.vae import Latents, kl_divergence
from vaedm_jax.training.stages import ddpm_stage, vae_stage

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)
LADDER = {"vae.dec_block": "1u4,1t4,4z2,4u4,4t16,16z1,16x1"}
D = 4 + 4 * 4 * 2 + 16 * 16


def dense(params: dict, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance that the convolution of a layer gives for GELU(x)."""
    h = 0.5 * x * (1 + erf(x / np.sqrt(2))) @ np.asarray(params["kernel"][0, 0]) + params["bias"]
    mean, logvar = np.split(h, 2, axis=-1)
    return mean, np.exp(logvar)


def test_the_posterior_is_the_product_of_the_gaussians_of_decoder_and_encoder():
    x, seen, noise = (RNG.standard_normal((3, 4, 4, C)).astype(np.float32) for C in (8, 6, 2))
    layer = Latents(2)
    params = jax.device_get(layer.init(jax.random.key(0), x, noise, seen)["params"])
    out, (z, mu, logvar) = layer.apply({"params": params}, x, noise, seen)
    (m_p, v_p), (m_e, v_e) = dense(params["prior"], x), dense(params["posterior"], seen)
    v_q = 1 / (1 / v_p + 1 / v_e)
    m_q = v_q * (m_p / v_p + m_e / v_e)
    z_1 = m_q + np.sqrt(v_q) * noise
    np.testing.assert_allclose(out, x + z_1 @ params["out"]["kernel"][0, 0] + params["out"]["bias"], atol=1e-5)
    np.testing.assert_allclose(m_p + np.sqrt(v_p) * z, z_1, atol=1e-5)
    kl = 0.5 * (v_q / v_p + (m_q - m_p) ** 2 / v_p - 1 + np.log(v_p / v_q))
    np.testing.assert_allclose(kl_divergence(*(a.reshape(3, -1) for a in (mu, logvar))), kl.sum((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_the_drawn_z_decodes_to_the_reconstruction(packed):
    config = tiny_config(**LADDER, **{"vae.packed": packed})
    vae, params = models.build_vae(config), random_params(vae_stage(tiny_config(**LADDER)), 1)
    noise = RNG.standard_normal((3, D)).astype(np.float32)
    x_hat, z, mu, logvar = apply(vae, params, IMAGES / np.float32(255), noise, method="reconstruct")
    assert vae.z_dim == D and z.shape == mu.shape == logvar.shape == (3, D)
    np.testing.assert_allclose(z, mu + np.exp(logvar / 2) * noise, atol=1e-5)
    np.testing.assert_allclose(apply(vae, params, z, method="decode"), x_hat, atol=1e-5)
    plain = models.build_vae(tiny_config(**LADDER))
    same = apply(plain, params, IMAGES / np.float32(255), noise, method="reconstruct")
    for a, b in zip(same, (x_hat, z, mu, logvar), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_both_layers_of_the_ladder_learn():
    stage = vae_stage(tiny_config(**LADDER))
    keys, params = jax.random.split(jax.random.key(0), 3), random_params(stage)
    grads = jax.jit(jax.grad(lambda p: stage.loss(p, {}, IMAGES, keys, 0)[0]))(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_stage_2_and_the_model_work_with_several_layers():
    config = tiny_config(**LADDER, **FIVE_STEPS, **{"ddpm.z_conditioning": True})
    vae = random_params(vae_stage(config), 1)
    stage = ddpm_stage(config, vae)
    model = VAEDM(config, vae, random_params(stage, 2))
    loss, _ = jax.jit(stage.loss)(model.params["ddpm"], vae, IMAGES, jax.random.split(jax.random.key(0), 3), 0)
    assert np.isfinite(loss)
    z = model.sample_z(3)
    assert z.shape == model.encode(IMAGES).shape == (3, D)
    np.testing.assert_allclose(model.sample(3).x_hat, model.decode(z), atol=1e-6)
    np.testing.assert_allclose(model.condition(IMAGES), model.reconstruct(IMAGES), atol=1e-6)
    assert np.abs(model.sample(3, z=z).images - model.sample(3).images).max() < 1e-5
    assert model.interpolate(*IMAGES[:2], n=3).images.shape == (3, 16, 16, 3)
    assert (model.bound(IMAGES).z > 0).all()


def test_z_is_drawn_from_the_posterior_of_its_image_and_a_prior_is_fitted_to_it(tmp_path):
    config = tiny_config(**LADDER)
    model = VAEDM(config, random_params(vae_stage(config), 1), {})
    z, mu = model.posterior(np.tile(IMAGES, (300, 1, 1, 1))).reshape(300, 3, D), model.encode(IMAGES)
    first = z[..., :4]  # the other layers depend on this one
    _, logvar = apply(model.engine.networks.vae, model.params["vae"], IMAGES / np.float32(255), method="encode")
    logvar = logvar[:, :4]
    np.testing.assert_allclose(((first - mu[:, :4]) * np.exp(-logvar / 2)).mean(0), 0, atol=0.25)
    np.testing.assert_allclose(first.std(0), np.exp(logvar / 2), rtol=0.2)
    np.testing.assert_array_equal(model.posterior(IMAGES[1:], 5, first=1), model.posterior(IMAGES, 5)[1:])
    model.save(tmp_path / "ladder.safetensors")
    weights = f"--config.sample.weights={tmp_path / 'ladder.safetensors'}"
    command = ["main", "--mode=prior", f"--workdir={tmp_path}", weights]
    assert main([*command, "--config.prior.kinds=flow", "--config.prior.steps=30"]) == 0
    assert model.with_prior(tmp_path / "prior.npz").sample_z(2).shape == (2, D)


def test_a_ladder_is_trained_from_the_command_line(tmp_path, configs):
    blocks = f"--config.vae.dec_block={LADDER['vae.dec_block']}"
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={tmp_path / 'run'}", blocks]
    assert main([*command, "--config.vae.steps=2", "--stage=vae"]) == 0
    assert VAEDM.from_run(tmp_path / "run").sample_x_hat(2).shape == (2, 16, 16, 3)


def test_invalid_layers_are_refused_in_one_line(refused):
    begin = "--config={configs}/tiny.py --workdir={new} "
    refused(begin + "--config.vae.enc_block=16d4,16t4,4z2,4d4,4t1,1x1", "4z2", "belong to the decoder")
    refused(
        begin + "--config.vae.dec_block=1z2,1u4,1t4,4u4,4t16,16x1",
        "1z2",
        "that the encoder pools: 4, 16",
        "vae.dec_block",
    )
    refused(begin + "--config.vae.dec_block=1u4,1t4,8z2,4u4,4t16,16x1", "8z2", "channels")
    refused(begin + "--config.vae.dec_block=1u4,1t4,4z0,4u4,4t16,16x1", "4z0", "both numbers")
