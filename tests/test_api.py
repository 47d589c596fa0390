"""The trained model as an object: sampling, saving and loading."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import FIVE_STEPS, random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.data.images import square
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import Level
from vaedm_jax.errors import UserError
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.sampling.engine import Engine
from vaedm_jax.sampling.generation import generate
from vaedm_jax.sampling.networks import build_networks
from vaedm_jax.training.stages import ddpm_stage, vae_stage

CONFIG = tiny_config(**{"sample.steps": 3, "ddpm.multipliers": (1, 1)})
# The estimate of x_0 divides by sqrt(alpha_bar_T) = 1 / 157, which magnifies the rounding errors of the network.
ROUNDING = 157 * 1e-6

VAE = random_params(vae_stage(CONFIG), 1)
VAE_WIDTH = VAEDM(CONFIG, VAE, {}).engine.networks.vae.z_dim
DDPM = random_params(ddpm_stage(CONFIG, VAE), 2)
SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def model() -> VAEDM:
    return VAEDM(CONFIG, VAE, DDPM)


@pytest.fixture(scope="module")
def images(model) -> np.ndarray:
    """Return the first eleven images of seed 5."""
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
    one = VAEDM(CONFIG, VAE, DDPM, make_mesh(1, jax.devices()[:1]))
    np.testing.assert_allclose(one.sample(11, seed=5).images, images, atol=ROUNDING)


def test_chains_with_the_same_number_of_rows_share_a_compiled_program(model):
    """Only the number of rows, their history and the options that are on need another program. No value does."""

    def sample(**settings) -> int:
        """Return the number of programs that sampling compiles."""
        before = generate._cache_size()
        model.sample(4, **{"sampler": "ddpm", "steps": 3, "start": "noise", **settings})
        return generate._cache_size() - before

    sample()
    for settings in [
        *({"temperature": t} for t in (0.5, 0.9)),
        *({"start": "warm", "t_start": t} for t in (200, 700)),
        *({"spacing": s} for s in ("quadratic", "logsnr", "karras")),
        {"start": "truncated"},
        {"z_temperature": 0.8, "shared": True, "clip": False, "variance": "fixedlarge"},
        {"sampler": "ddim", "eta": 0.5},
    ]:
        assert sample(**settings) == 0, settings
    for settings in ({"steps": 4}, {"sampler": "ddim"}, {"sampler": "unipc2"}, {"dynamic": 0.9}):
        assert sample(**settings) == 1, settings
    assert sample(dynamic=0.8) == 0


def test_arrays_are_moved_to_the_devices_explicitly(model, images):
    """JAX is told to refuse implicit transfers. Parameters, chains and batches are placed explicitly, once."""
    short = VAEDM(tiny_config(**FIVE_STEPS, **{"ddpm.multipliers": (1, 1)}), VAE, DDPM)
    with jax.transfer_guard("disallow"):
        np.testing.assert_array_equal(model.sample(11, seed=5).images, images)
        model.interpolate(images[0], images[1], n=3)
        model.reconstruct(images)
        model.sample_x_hat(3)
        short.bound(images[:2])


def test_a_model_offers_what_a_user_calls_and_nothing_else(model):
    offered = {name for name in dir(model) if not name.startswith("_")}
    loading = {"open", "from_pretrained", "from_checkpoint", "from_run", "save", "with_precision", "with_prior"}
    loading |= {"with_tables", "push_to_hub"}
    drawing = {"sample", "refine", "interpolate", "chain", "sample_z", "sample_x_hat"}
    images = {"encode", "posterior", "decode", "reconstruct", "condition", "error_variance", "bound"}
    assert offered == loading | drawing | images | {"config", "params", "schedule", "images", "engine"}


def test_another_seed_gives_other_images(model, images):
    assert np.abs(model.sample(11, seed=6).images - images).max(axis=(1, 2, 3)).min() > 0.1


def test_x_hat_is_what_the_vae_generates_from_the_same_seed(model):
    samples = model.sample(3, seed=5)
    np.testing.assert_allclose(model.sample_x_hat(3, seed=5), samples.x_hat, atol=1e-6)


def test_z_may_be_given_instead_of_drawn_from_the_prior(model, images):
    drawn = model.sample_z(11, seed=5)
    np.testing.assert_allclose(model.sample(11, 5, batch_size=8, z=drawn).images, images, atol=ROUNDING)
    other = model.sample(11, 5, z=drawn[::-1])
    np.testing.assert_allclose(other.x_hat, model.sample(11, 5).x_hat[::-1], atol=1e-6)
    assert np.abs(other.images - images).max() > 0.1


@pytest.mark.parametrize("z", [np.zeros((3, 1)), np.zeros(3), np.zeros((2, VAE_WIDTH))])
def test_z_of_another_shape_is_refused(model, z):
    with pytest.raises(UserError, match=rf"\(3, {VAE_WIDTH}\)"):
        model.sample(3, z=z)


def test_encode_returns_the_mean_from_which_images_are_reconstructed(model):
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    z = model.encode(images)
    assert z.shape == (3, VAE_WIDTH)
    np.testing.assert_allclose(model.sample(3, z=z).x_hat, model.reconstruct(images), atol=1e-6)


def test_a_chain_may_be_chosen_at_every_call(model, images):
    warm = model.sample(2, 5, chain=make_chain(CONFIG.sample, start="warm", t_start=50, sampler="ddim"))
    # A warm start at step 50 of 1,000 changes little, so the image stays near x_hat.
    far = np.abs(images[:2] - warm.x_hat).mean()
    assert np.abs(warm.images - warm.x_hat).mean() < far / 2


def test_a_saved_model_is_loaded_whole(model, images, tmp_path):
    model.save(tmp_path / "whole.safetensors")
    loaded = VAEDM.from_checkpoint(tmp_path / "whole.safetensors")
    assert loaded.config.to_dict() == CONFIG.to_dict()
    np.testing.assert_allclose(loaded.sample(11, seed=5).images, images, atol=1e-6)
    model.save(tmp_path / "half.safetensors", np.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    rounded = jax.tree.map(
        lambda a: np.asarray(a, np.float16).astype(np.float32), {"vae": VAE, "ddpm": DDPM, "prior": {}, "tables": {}}
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(VAEDM.from_checkpoint(tmp_path / "half.safetensors").params),
        rounded,
    )


def test_what_could_not_be_read_again_is_not_saved(model, tmp_path):
    for dtype in ("int8", "half precision"):
        with pytest.raises(UserError, match=r"dtype = .* one of float16, bfloat16, float32, float64"):
            model.save(tmp_path / "a.safetensors", dtype)
    large = VAEDM(CONFIG, VAE, DDPM | {"conv_in": jax.tree.map(lambda a: a + 1e5, DDPM["conv_in"])})
    with pytest.raises(UserError, match=r"ddpm/conv_in/.* has numbers that are not finite in float16"):
        large.save(tmp_path / "a.safetensors", np.float16)
    assert not (tmp_path / "a.safetensors").exists()
    model.save(tmp_path / "a.safetensors", "bfloat16")
    assert VAEDM.open(tmp_path / "a.safetensors").params["vae"]


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
        model.sample(2, chain=make_chain(config.sample, start="warm"))


def test_bytes_and_floats_are_reconstructed_alike(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(model.reconstruct(images), model.reconstruct(np.float32(images) / 255), atol=1e-6)


# --- inputs that are accepted, and inputs that are refused


def test_the_noise_that_a_chain_starts_from_may_be_given(model):
    """A warm start of one step evaluates the network once, on x_hat and this noise. So the seed does not matter."""
    x_T = np.random.default_rng(0).standard_normal((3, *SHAPE))
    how = dict(chain=Chain("ddim", 1, start="warm", t_start=0), z=model.sample_z(3))
    a, b = (model.sample(3, seed, x_T=x_T, **how).images for seed in (0, 1))
    np.testing.assert_allclose(a, b, atol=1e-6)
    first, *_ = model.sample(3, x_T=x_T[0], **how).images
    np.testing.assert_allclose(first, a[0], atol=1e-6)
    assert np.abs(model.sample(3, x_T=-x_T, **how).images - a).max() > 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_shared_noise_leaves_z_as_the_only_difference(model, sampler):
    how = dict(sampler=sampler, steps=3, shared=True)
    same = model.sample(3, 5, z=model.sample_z(1)[0], **how).images
    np.testing.assert_allclose(same, same[:1].repeat(3, axis=0), atol=ROUNDING)
    other = model.sample(3, 5, z=model.sample_z(3), **how).images
    assert np.abs(other[1:] - other[:1]).max(axis=(1, 2, 3)).min() > 0.01


def test_temperature_scales_only_the_noise_at_the_start(model):
    x_T = np.random.default_rng(0).standard_normal((2, *SHAPE))
    how = dict(sampler="ddim", steps=3, z=model.sample_z(2))
    cold, scaled = model.sample(2, x_T=x_T, temperature=0.5, **how), model.sample(2, x_T=x_T / 2, **how)
    np.testing.assert_allclose(cold.images, scaled.images, atol=1e-6)
    drawn = dict(sampler="ddpm", steps=3, z=how["z"])
    assert np.abs(model.sample(2, temperature=0.5, **drawn).images - model.sample(2, **drawn).images).max() > 0.01


@pytest.mark.parametrize(
    ("variant", "prediction"), [("form1", "eps"), ("form2", "eps"), ("form2", "v"), ("form1", "residual")]
)
def test_guidance_extrapolates_from_the_blank_condition_beyond_the_shown_one(variant, prediction):
    settings = {
        "cond_dropout": 0.1,
        "z_conditioning": True,
        "prediction": prediction,
        "sigma_r": 0.3,
        "sigma_data": 0.7,
    }
    config = tiny_config(variant, **{f"ddpm.{name}": value for name, value in settings.items()})
    ddpm = random_params(ddpm_stage(config, VAE), 2)
    networks = VAEDM(config, VAE, ddpm).engine.networks
    rng = np.random.default_rng(0)
    u, x_hat, z = (np.float32(rng.standard_normal((2, *shape))) for shape in (SHAPE, SHAPE, (VAE_WIDTH,)))
    t = np.array([10.0, 800.0])

    def unet(x_t, x_hat, z):
        return np.asarray(networks.unet.apply({"params": ddpm}, x_t, t, x_hat, z))

    def eps(x_hat, z, sigma):
        """Return the noise. A blank condition also zeroes the shift of Formulation 2 and the centre of the residual."""
        if prediction == "residual":
            r = np.sqrt(0.6**2 + (0.8 * sigma) ** 2)
            w = (u - 0.8 * x_hat) / r
            return (0.6 * w - 0.8 * sigma * unet(w, x_hat, z)) / r
        output = unet(u + x_hat * networks.form.shifted, x_hat, z)
        return 0.6 * u + 0.8 * output if prediction == "v" else output

    shown, blank = eps(x_hat, z, 0.3), eps(0 * x_hat, 0 * z, 0.7)
    guided = networks.predict({"ddpm": ddpm}, None, x_hat, z, guidance=1.5)(u, Level(t, 0.8, 0.6)).eps
    np.testing.assert_allclose(guided, blank + 2.5 * (shown - blank), atol=1e-4)


def test_guidance_costs_two_evaluations_and_needs_a_refiner_trained_with_cond_dropout(model):
    chain, full = Chain("ddim", 10, guidance=1.0), model.schedule
    assert chain.nfe(full) == 20 and chain.within(20) == chain and chain.within(1).steps == 1
    with pytest.raises(UserError, match="cond_dropout"):
        model.sample(1, chain=chain)


def test_images_given_as_x_hat_are_refined(model):
    samples = model.sample(3, 5)
    np.testing.assert_allclose(model.refine(samples.x_hat, 5), samples.images, atol=ROUNDING)
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    np.testing.assert_allclose(model.refine(bytes_), model.refine(np.float32(bytes_) / 255), atol=ROUNDING)


def test_an_interpolation_runs_from_one_end_to_the_other_with_one_noise(model):
    a, b = model.sample_z(2)
    way = model.interpolate(a, b, n=5, path="spherical", seed=3, steps=3)
    np.testing.assert_allclose(way.x_hat[[0, -1]], model.decode(np.stack([a, b])), atol=1e-6)
    np.testing.assert_allclose(way.images[0], model.sample(1, 3, z=a, steps=3).images[0], atol=ROUNDING)
    images = np.random.default_rng(0).random((2, *SHAPE))
    ends = model.interpolate(*images, n=2).x_hat
    np.testing.assert_allclose(ends, model.reconstruct(images), atol=1e-6)


def test_the_largest_seed_has_its_own_images(model):
    a, b = (model.sample(1, seed, progress=False).images for seed in (2**32 - 1, 2**31))
    assert (a != b).any()
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(np.uint32(2**31)), 0), 0)
    np.testing.assert_allclose(model.sample_z(1, 2**31)[0], jax.random.normal(key, (VAE_WIDTH,)), rtol=1e-6)


def test_progress_is_reported_batch_by_batch(model):
    told = []
    model.sample(20, batch_size=8, progress=lambda done, n: told.append((done, n)))
    assert told == [(8, 20), (16, 20), (20, 20)]


def test_large_arrays_are_computed_in_batches(model, monkeypatch):
    images = np.random.default_rng(0).random((20, *SHAPE), np.float32)
    whole = model.encode(images, batch_size=24)
    z = model.sample_z(20, batch_size=24)
    sizes, on_devices = [], Engine.on_devices
    monkeypatch.setattr(Engine, "on_devices", lambda *a: ((sizes.append(len(b)), (n, b))[1] for n, b in on_devices(*a)))
    np.testing.assert_allclose(model.encode(images, batch_size=8), whole, atol=1e-5)
    np.testing.assert_allclose(model.sample_z(20, batch_size=8), z, rtol=1e-6)
    assert sizes == [8, 8, 8] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.encode(np.zeros((2, 8, 8, 3))), ["(2, 8, 8, 3)", "[N, 16, 16, 3]"]),
        (lambda m: m.encode(np.zeros(SHAPE)), ["(16, 16, 3)"]),
        (lambda m: m.refine(np.full((1, *SHAPE), 255.0)), ["255", "[0, 1]"]),
        (lambda m: m.refine(np.full((1, *SHAPE), np.nan)), ["not finite"]),
        (lambda m: m.refine(np.zeros((1, 16, 16, 1))), ["(1, 16, 16, 1)", "[N, H, W, 3]"]),
        (lambda m: m.reconstruct(np.zeros((1, *SHAPE), int)), ["int64", "uint8"]),
        (lambda m: m.decode(np.zeros((2, 1))), ["z", "(2, 1)"]),
        (lambda m: m.sample(2, z=np.full(VAE_WIDTH, np.inf)), ["z is not finite"]),
        (lambda m: m.sample(2, x_T=np.zeros((3, *SHAPE))), ["x_T", "(3, 16, 16, 3)", "(2, 16, 16, 3)"]),
        (lambda m: m.sample(2, z=m.sample_z(2), x_hat=np.zeros((2, *SHAPE))), ["both"]),
        (lambda m: m.sample(0), ["n = 0", "1 or more"]),
        (lambda m: m.sample(2, seed=-1), ["seed = -1", "from 0 to 4294967295"]),
        (lambda m: m.sample(2, seed=None), ["seed = None", "a whole number"]),
        (lambda m: m.sample(2, batch_size=0), ["batch_size = 0"]),
        (lambda m: m.sample(2, steps=2.5), ["steps = 2.5", "a whole number"]),
        (lambda m: m.sample(2, steps=5, start="warm", t_start=0), ["t_start = 0", "with_t_start"]),
        (lambda m: m.sample(2, temperature=np.nan), ["temperature = nan"]),
        (lambda m: m.sample(2, sampler="ddim", eta=5.0), ["eta = 5.0", "from 0.0 to 1.0"]),
        (lambda m: m.sample(2, z="abc"), ["z is ", "array of numbers"]),
        (lambda m: m.decode(np.zeros(VAE_WIDTH)), ["z of the shape", "[N, D]"]),
        (lambda m: m.sample(2, solver="ddim"), ["'solver'", "sampler"]),
        (lambda m: m.sample(2, sampler="euler"), ["'euler'", "ddim"]),
        (lambda m: m.interpolate(np.zeros(VAE_WIDTH), np.zeros(1)), ["one shape"]),
        (lambda m: m.interpolate(np.zeros((2, *SHAPE)), np.zeros(VAE_WIDTH)), ["(2, 16, 16, 3)", "one image"]),
        (lambda m: m.interpolate("abc", np.zeros(VAE_WIDTH)), ["an end is ", "array of numbers"]),
        (lambda m: m.interpolate([[1.0], [1.0, 2.0]], np.zeros(VAE_WIDTH)), ["an end is ", "array of numbers"]),
        (lambda m: m.encode([[1.0], [1.0, 2.0]]), ["images is ", "array of numbers"]),
        (lambda m: m.reconstruct(np.zeros((1, *SHAPE), complex)), ["images", "array of numbers", "complex"]),
        (lambda m: m.refine("abc"), ["images is ", "array of numbers"]),
        (lambda m: m.decode([[1.0], [1.0, 2.0]]), ["z is ", "array of numbers"]),
        (lambda m: m.sample("2"), ["n = 2", "a whole number"]),
        (lambda m: m.sample(2**31), ["n = 2147483648", "at most 2,147,483,647"]),
        (lambda m: m.sample(2, first=-1), ["first = -1"]),
        (lambda m: m.sample(2, chain="ddim"), ["chain = 'ddim'", "Chain"]),
        (lambda m: m.sample_z(2, temperature=np.nan), ["temperature = nan"]),
        (lambda m: m.sample_z(2, temperature=-1.0), ["temperature = -1"]),
        (lambda m: m.posterior(np.zeros((1, *SHAPE)), first=2**31), ["first = 2147483648"]),
        (lambda m: m.condition(np.zeros((1, *SHAPE)), seed=2**32), ["seed = 4294967296"]),
        (lambda m: m.error_variance(np.zeros((1, *SHAPE))), ["t_start = 0", "two training images"]),
        (lambda m: m.bound(np.zeros((2, 8, 8, 3), np.uint8)), ["(2, 8, 8, 3)", "[N, 16, 16, 3]"]),
        (lambda m: m.bound(np.zeros(SHAPE, np.uint8)), ["(16, 16, 3)"]),
        (lambda m: m.bound(np.zeros((0, *SHAPE), np.uint8)), ["(0, 16, 16, 3)"]),
        (lambda m: m.bound(np.full((1, *SHAPE), 255.0)), ["255", "[0, 1]"]),
        (lambda m: m.bound(np.full((1, *SHAPE), np.nan)), ["not finite"]),
        (lambda m: m.bound(np.zeros((1, *SHAPE), int)), ["int64", "uint8"]),
        (lambda m: m.bound("abc"), ["images is ", "array of numbers"]),
        (lambda m: m.bound(np.zeros((1, *SHAPE)), seed=-1), ["seed = -1"]),
        (lambda m: m.bound(np.zeros((1, *SHAPE)), first=-1), ["first = -1"]),
        (lambda m: m.bound(np.zeros((1, *SHAPE)), batch_size=0), ["batch_size = 0"]),
        (lambda m: m.bound(np.zeros((1, *SHAPE)), chain={}), ["chain = {}", "Chain"]),
        (lambda m: m.interpolate(*m.sample_z(2), path="curved"), ["'curved'", "spherical"]),
        (lambda m: VAEDM.from_pretrained("cats"), ["'cats'", "avatars"]),
        (lambda m: VAEDM.from_pretrained("avatars", revision="v1"), ["revision = 'v1'", "leave it out"]),
        (lambda m: VAEDM.from_checkpoint("missing.safetensors"), ["missing.safetensors"]),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_one_line(model, call, words):
    with pytest.raises(UserError) as caught:
        call(model)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_the_fingerprint_of_a_model_depends_only_on_what_changes_its_images(model):
    """It does not change with how a network is computed, nor with a default that a later version adds."""

    def meaning(precision=None, **changes):
        with jax.default_matmul_precision(precision):
            return build_networks(tiny_config(**changes)).meaning

    same = {"ddpm.remat": True, "vae.remat": True, "vae.packed": True, "ddpm.dropout": 0.3, "vae.kl_weight": 3.0}
    assert all(meaning(**{name: value}) == meaning() for name, value in same.items())
    others = {"ddpm.heads": 2, "ddpm.precision": "bfloat16", "vae.precision": "bfloat16", "ddpm.scale_shift": True}
    found = [json.dumps(meaning(**{name: value}), sort_keys=True) for name, value in others.items()]
    assert len({*found, json.dumps(meaning(), sort_keys=True)}) == len(others) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        elsewhere = meaning("float32"), meaning()
    assert elsewhere[0] != elsewhere[1] == meaning() == meaning("float32"), "a CPU has float32 anyway"
    assert "remat" not in repr(meaning()) and "precision" not in repr(meaning()), "defaults are left out"
    other = VAEDM(CONFIG, VAE, jax.tree.map(lambda a: a + 1, DDPM))
    assert other.engine.fingerprint != model.engine.fingerprint == VAEDM(CONFIG, VAE, DDPM).engine.fingerprint


def test_pil_images_of_any_size_and_mode_are_prepared_as_for_training(model):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 30, bands), np.uint8)) for bands in (3, 4)]
    arrays = np.stack([square(picture, 16) for picture in pictures])
    np.testing.assert_array_equal(model.encode(pictures), model.encode(arrays))
    np.testing.assert_array_equal(model.encode(pictures[1]), model.encode(arrays[1:]))
    np.testing.assert_array_equal(model.refine(pictures, steps=1), model.refine(arrays, steps=1))
    ends = (model.interpolate(*those, n=2, steps=1).images for those in (pictures, arrays))
    np.testing.assert_array_equal(*ends)
    with pytest.raises(UserError, match=r"images: a picture cannot be read .*mode F"):
        model.encode(Image.fromarray(np.zeros((16, 16), np.float32)))


def test_samples_become_pil_images_and_a_grid_with_x_hat(model, images, tmp_path):
    samples = model.sample(3, seed=5)
    for picture, image in zip(samples.to_pil(), samples.images, strict=True):
        np.testing.assert_allclose(np.asarray(picture), 255 * image, atol=0.51)
    samples.save(tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as grid:
        assert grid.height > 2 * 64 and grid.width > 3 * 64


def test_the_text_of_a_model_says_its_variant_size_and_parameters(model):
    count = sum(a.size for a in jax.tree.leaves(VAE)) / 1e6
    assert repr(model).startswith(f"VAEDM(form1, 16 x 16 pixels, {count:.1f} M parameters of the VAE, ")
    assert repr(VAEDM(CONFIG, {}, {})) == "VAEDM(form1, 16 x 16 pixels, untrained)"
