"""The trained model as an object: what it samples, saves and loads."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.tiny import random_params, tiny_config
from vaedm_jax.api import VAEDM, prior, sample_keys
from vaedm_jax.config import chain_of
from vaedm_jax.errors import UserError
from vaedm_jax.training.stages import ddpm_stage, vae_stage

CONFIG = tiny_config(**{"sample.steps": 3})
# The estimate of x_0 divides by sqrt(alpha_bar_T) = 1 / 157, and the rounding of the network's products with it.
ROUNDING = 157 * 1e-6

VAE = random_params(vae_stage(CONFIG), 1)
VAE_WIDTH = VAEDM(CONFIG, VAE, {}).networks.vae.z_dim
DDPM = random_params(ddpm_stage(CONFIG, VAE), 2)


@pytest.fixture(scope="module")
def model() -> VAEDM:
    return VAEDM(CONFIG, VAE, DDPM)


@pytest.fixture(scope="module")
def images(model) -> np.ndarray:
    """The first eleven of seed 5."""
    return model.sample(11, seed=5).images


def test_images_are_finite_distinct_and_in_range(images):
    assert images.shape == (11, 16, 16, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert len(np.unique(images.reshape(11, -1), axis=0)) == 11


@pytest.mark.parametrize("batch_size", [3, 8, 64])
def test_an_image_depends_on_the_seed_and_its_index_alone(model, images, batch_size):
    np.testing.assert_allclose(model.sample(11, 5, batch_size=batch_size).images, images, atol=ROUNDING)
    np.testing.assert_allclose(model.sample(2, 5, first=7, batch_size=batch_size).images, images[7:9], atol=ROUNDING)


def test_one_device_and_eight_draw_the_same_images(images):
    one = VAEDM(CONFIG, VAE, DDPM, Mesh(np.array(jax.devices()[:1]), ("data",)))
    np.testing.assert_allclose(one.sample(11, seed=5).images, images, atol=ROUNDING)


def test_another_seed_gives_other_images(model, images):
    assert np.abs(model.sample(11, seed=6).images - images).max(axis=(1, 2, 3)).min() > 0.1


def test_x_hat_is_what_the_vae_generates_from_the_same_seed(model):
    samples = model.sample(3, seed=5)
    np.testing.assert_allclose(model.sample_x_hat(3, seed=5), samples.x_hat, atol=1e-6)


def test_z_may_be_given_in_place_of_the_priors(model, images):
    drawn = np.asarray(prior(model.networks, sample_keys(5, np.arange(11))))
    np.testing.assert_allclose(model.sample(11, 5, batch_size=8, z=drawn).images, images, atol=ROUNDING)
    other = model.sample(11, 5, z=drawn[::-1])
    np.testing.assert_allclose(other.x_hat, model.sample(11, 5).x_hat[::-1], atol=1e-6)
    assert np.abs(other.images - images).max() > 0.1


@pytest.mark.parametrize("z", [np.zeros((3, 1)), np.zeros(3), np.zeros((2, VAE_WIDTH))])
def test_z_of_another_shape_is_refused(model, z):
    with pytest.raises(UserError, match=rf"\(3, {VAE_WIDTH}\)"):
        model.sample(3, z=z)


def test_images_are_encoded_at_the_mean_from_which_they_are_reconstructed(model):
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    z = model.encode(images)
    assert z.shape == (3, VAE_WIDTH)
    np.testing.assert_allclose(model.sample(3, z=z).x_hat, model.reconstruct(images), atol=1e-6)


def test_a_chain_may_be_chosen_at_every_call(model, images):
    warm = model.sample(2, 5, chain=chain_of(CONFIG.sample, start="warm", t_start=50, sampler="ddim"))
    # Five hundredths of the noise leave little to do: the image stays near to x_hat.
    far = np.abs(images[:2] - warm.x_hat).mean()
    assert np.abs(warm.images - warm.x_hat).mean() < far / 2


def test_a_saved_model_is_loaded_whole(model, images, tmp_path):
    model.save(tmp_path / "whole.safetensors")
    loaded = VAEDM.load(tmp_path / "whole.safetensors")
    assert loaded.config.to_dict() == CONFIG.to_dict()
    np.testing.assert_allclose(loaded.sample(11, seed=5).images, images, atol=1e-6)
    model.save(tmp_path / "half.safetensors", np.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    rounded = jax.tree.map(lambda a: np.asarray(a, np.float16).astype(np.float32), {"vae": VAE, "ddpm": DDPM})
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(VAEDM.load(tmp_path / "half.safetensors").params), rounded
    )


def test_a_model_without_a_trained_refiner_says_so():
    with pytest.raises(UserError, match="no trained DDPM"):
        VAEDM(CONFIG, VAE, {}).sample(1)


def test_the_unconditional_model_has_no_x_hat():
    config = tiny_config("uncond", **{"sample.steps": 2})
    model = VAEDM(config, {}, random_params(ddpm_stage(config, {})))
    samples = model.sample(2)
    assert samples.x_hat is None and samples.images.shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match="no VAE"):
        model.sample(2, z=np.zeros((2, VAE_WIDTH)))
    with pytest.raises(UserError, match="warm"):
        model.sample(2, chain=chain_of(config.sample, start="warm"))


def test_bytes_and_floats_are_reconstructed_alike(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(model.reconstruct(images), model.reconstruct(np.float32(images) / 255), atol=1e-6)
