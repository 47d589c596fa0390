"""Conditions that replace the VAE's x_hat: against independent code, in training, and in every mode."""

import csv
import re

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.cli_fixtures import configs_fixture, refused_fixture  # noqa: F401
from tests.tiny import FIVE_STEPS, random_params, tiny_config
from vaedm_jax import VAEDM, models
from vaedm_jax.conditioning.conditions import Blur, Downsample, Grayscale, Mask, parse_condition
from vaedm_jax.conditioning.tasks import Conditioned
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.fidelity import psnr
from vaedm_jax.main import main
from vaedm_jax.modes.shared.restoration import ways
from vaedm_jax.reporting import read_caption
from vaedm_jax.training.stages import ddpm_stage, vae_stage

RNG = np.random.default_rng(0)
BYTES = np.uint8(RNG.integers(0, 256, (40, 16, 20, 3)))
TRUTH = np.float32(BYTES) / 255
KEYS = jax.random.split(jax.random.key(0), len(TRUTH))
NAMES = ["downsample2", "grayscale", "mask0.5", "blur1.5"]


def test_grayscale_agrees_with_pillow():
    want = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in BYTES])
    found = Grayscale().corrupt(TRUTH, KEYS)
    np.testing.assert_allclose(found * 255, np.repeat(want[..., None], 3, axis=-1), atol=0.51)


def test_a_tinted_photograph_is_shown_in_grey_and_keeps_only_its_luma():
    grey = np.asarray(Grayscale().corrupt(TRUTH))
    tinted = np.clip(grey + np.float32([0.1, 0, -0.1]), 0, 1)
    shown = np.asarray(Grayscale().lift(tinted))
    np.testing.assert_array_equal(shown, shown[..., :1].repeat(3, axis=-1))
    agreeing = Grayscale().make_consistent(0.3 + 0.4 * TRUTH, 0.3 + 0.4 * tinted)
    np.testing.assert_allclose(Grayscale().corrupt(agreeing), 0.3 + 0.4 * shown, atol=1e-5)


def test_blur_agrees_with_scipy():
    for sigma in (0.6, 2.0):
        radius = int(np.ceil(3 * sigma))
        want = gaussian_filter(np.float64(TRUTH), (0, sigma, sigma, 0), mode="nearest", radius=(0, radius, radius, 0))
        np.testing.assert_allclose(Blur(sigma).corrupt(TRUTH, KEYS), want, atol=1e-6)


def test_a_hole_has_its_size_and_the_key_determines_its_place():
    found = np.asarray(Mask(0.25).corrupt(TRUTH, KEYS))
    places = set()
    for image, truth in zip(found, TRUTH, strict=True):
        rows, columns = np.nonzero((image != truth).any(axis=-1))
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (3, 4, 4 * 5)
        assert (image[rows, columns] == 0.5).all()
        places.add((rows.min(), columns.min()))
    assert len(places) > 20 and {0, 12} <= {row for row, _ in places} and {0, 15} <= {column for _, column in places}
    np.testing.assert_array_equal(found[3:4], Mask(0.25).corrupt(TRUTH[3:4], KEYS[3:4]))


@pytest.mark.parametrize("name", NAMES)
def test_the_refiner_is_shown_what_an_8_bit_file_would_hold(name):
    condition = parse_condition(name)
    left = np.rint(255 * np.asarray(condition.corrupt(TRUTH, KEYS))).astype(np.uint8)
    np.testing.assert_allclose(condition.shown(TRUTH, KEYS), condition.lift(np.float32(left) / 255), atol=1e-6)
    assert condition.shown(TRUTH, KEYS).shape == TRUTH.shape


def test_only_pixels_of_the_grey_of_a_hole_are_filled():
    shades = np.array([126, 127, 127.5, 128, 129], np.float32) / 255  # 127.5 is the grey before it is rounded
    damaged = shades.reshape(1, 1, 5, 1).repeat(3, axis=3)
    filled = Mask().make_consistent(np.ones_like(damaged), damaged)
    assert np.asarray(filled == 1).all(axis=3).tolist() == [[[False, False, True, True, False]]]


@pytest.mark.parametrize("condition", [Downsample(4), Grayscale(), Mask(0.5)])
def test_a_consistent_image_has_the_given_condition_and_is_nearer_to_the_truth(condition):
    truth = 0.3 + 0.4 * TRUTH
    guess = np.float32(np.clip(truth + 0.05 * RNG.standard_normal(truth.shape), 0, 1))
    damaged = condition.corrupt(truth, KEYS)
    agreeing = np.asarray(condition.make_consistent(guess, damaged))
    np.testing.assert_allclose(condition.corrupt(agreeing, KEYS), damaged, atol=1e-6)
    assert (psnr(agreeing, truth) > psnr(guess, truth)).all()


def test_the_name_of_a_condition_gives_its_kind_and_its_number():
    assert parse_condition("vae") is None
    assert parse_condition("downsample") == Downsample(4) and parse_condition("downsample8") == Downsample(8)
    assert parse_condition("mask0.3") == Mask(0.3) and parse_condition("blur3") == Blur(3.0)
    for name in (
        "dehaze",
        "downsample1",
        "downsample2.5",
        "mask1",
        "blur0",
        "blurx",
        "blur1e9",
        "blur\n",
        "grayscale2",
        "vae2",
        "4",
        "",
    ):
        with pytest.raises(UserError, match=re.escape(f"ddpm.condition = {name!r}")):
            parse_condition(name)


def test_training_shows_the_network_the_conditions_of_the_training_images(monkeypatch):
    stage, seen = ddpm_stage(tiny_config("form2", **{"ddpm.condition": "grayscale"}), {}), []
    monkeypatch.setattr(
        models, "apply", lambda net, params, x_t, t, x_hat, z, masks, k: seen.append((x_hat, z)) or 0 * x_t
    )
    stage.loss({}, {}, BYTES[:3, :, :16], KEYS[:3], 0)
    ((x_hat, z),) = seen
    grey = [np.asarray(Image.fromarray(image).convert("L"), np.float32) for image in BYTES[:3, :, :16]]
    np.testing.assert_allclose(x_hat, 2 * np.repeat(np.stack(grey)[..., None], 3, axis=-1) / 255 - 1, atol=2.1 / 255)
    assert z is None and stage.frozen == {}


def model_of(name: str, variant: str = "form1", **changes) -> VAEDM:
    config = tiny_config(variant, **{"ddpm.condition": name, **changes})
    return VAEDM(config, {}, random_params(ddpm_stage(config, {}), 2))


def test_a_model_samples_from_the_conditions_of_images_and_has_no_z():
    model, images = model_of("mask"), TRUTH[:3, :, :16]
    x_hat = model.condition(images, seed=5, first=7)
    np.testing.assert_array_equal(x_hat[1:], model.condition(images[1:], seed=5, first=8))
    samples = model.sample(3, x_hat=x_hat)
    np.testing.assert_array_equal(samples.x_hat, x_hat)
    np.testing.assert_allclose(model.refine(x_hat), samples.images, atol=1e-6)
    other = model.sample(3, x_hat=model.condition(images, seed=6)).images
    assert np.abs(other - samples.images).max() > 1e-3
    for asked in (lambda: model.sample(3), lambda: model.sample(3, z=np.zeros(4))):
        with pytest.raises(UserError, match=r"ddpm\.condition = 'mask'"):
            asked()


def test_both_chains_return_images_that_keep_the_known_pixels():
    task, truth = Conditioned(Mask(0.5), "mask0.5"), TRUTH[:3, :, :16]
    damaged = task.corrupt(truth)
    found = ways(model_of("mask0.5"), task, Chain("ddim", 2, start="warm"), truth, progress=False)
    assert list(found) == ["x̂", "from noise", "from t = 500"]
    hole = (damaged == np.float32(128 / 255)).all(axis=-1, keepdims=True)
    for made in found.values():
        np.testing.assert_array_equal(np.where(hole, 0, made()), np.where(hole, 0, damaged))


def test_a_refiner_may_be_shown_z_alone(monkeypatch):
    changes = {"ddpm.z_conditioning": True, "ddpm.scale_shift": True, "ddpm.cond_dropout": 0.1}
    config = tiny_config("uncond", **FIVE_STEPS, **changes)
    vae = random_params(vae_stage(config), 1)
    stage = ddpm_stage(config, vae)
    model, z = VAEDM(config, vae, random_params(stage, 2)), np.float32(RNG.standard_normal((2, 4)))
    by_z = [model.sample(1, z=one, guidance=w).images for one in z for w in (0.0, 1.0)]
    assert min(np.abs(a - b).max() for i, a in enumerate(by_z) for b in by_z[:i]) > 1e-4
    assert model.sample(2, start="warm", t_start=3).x_hat.shape == (2, 16, 16, 3)
    assert (model.bound(BYTES[:2, :, :16]).z > 0).all()

    seen = []
    of_unet = models.apply

    def apply(network, *inputs, **how):
        seen.append(inputs[1:])
        return of_unet(network, *inputs, **how)

    monkeypatch.setattr(models, "apply", apply)
    jax.eval_shape(lambda keys: stage.loss(model.params["ddpm"], vae, BYTES[:3, :, :16], keys, None), KEYS[:3])
    _, _, x_hat, z, _, k = seen[-1]
    assert x_hat is None and k is None and z.shape == (3, 4)


def test_the_bound_is_that_of_the_image_given_its_condition():
    bound = model_of("grayscale", **FIVE_STEPS).bound(BYTES[:2, :, :16])
    assert (bound.z == 0).all() and (bound.condition == 0).all() and (bound.total > 0).all()


def test_a_run_with_a_condition_trains_one_stage_and_works_in_every_mode(tmp_path, configs, capsys):
    """The run has no VAE. Samples are made from conditions of held-out images, which are shown below them."""
    run = tmp_path / "run"
    command = ["main", f"--config={configs}/tiny.py", f"--workdir={run}", "--config.ddpm.condition=downsample2"]
    assert main([*command, "--config.ddpm.cond_dropout=0.1", "--config.ddpm.steps=4"]) == 0
    assert not (run / "vae").exists()
    rows = "x̂, refined, held out"
    assert read_caption(run / "ddpm" / "pictures" / "step_0000004.png").endswith(rows)

    features = "--config.eval.features=tests.tiny_features:means"
    assert main(["main", f"--workdir={run}", "--mode=sample", "--config.sample.n=3"]) == 0
    (grid,) = (run / "samples").glob("*.png")
    assert read_caption(grid).endswith(rows)
    with np.load(grid.with_suffix(".npz")) as arrays:
        assert arrays["images"].shape == arrays["x_hat"].shape == (3, 16, 16, 3)

    assert (
        main(["main", f"--workdir={run}", "--mode=evaluate", "--config.eval.n=9", features, "--config.eval.steps=2"])
        == 0
    )
    small = "--config.figures.columns=2", "--config.figures.steps=(2,)", features
    assert main(["main", f"--workdir={run}", "--mode=figures", *small]) == 0
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert drawn == set("refinement steps x_T restoration temperature shared guidance".split())

    assert main(["main", f"--workdir={run}", "--mode=restore", "--config.restore.n=4", features]) == 0
    (table,) = (run / "restored").glob("*.csv")
    with open(table) as file:
        assert [row["way"] for row in csv.DictReader(file)] == ["x̂", "from noise", "agreeing"]
    (tmp_path / "mine").mkdir()
    Image.fromarray(BYTES[0, :6, :8]).save(tmp_path / "mine" / "a.png")
    assert main(["main", f"--workdir={run}", "--mode=restore", f"--config.restore.files={tmp_path / 'mine'}"]) == 0
    (restored,) = (run / "restored").rglob("a.png")
    assert "downsample2" in str(restored) and Image.open(restored).size == (16, 12)
    assert "as it was" not in capsys.readouterr().out


def test_a_picture_without_a_hole_is_reported_as_unchanged(tmp_path, capsys):
    model_of("mask0.5").save(tmp_path / "mask.safetensors")
    (tmp_path / "mine").mkdir()
    Image.fromarray(BYTES[0]).save(tmp_path / "mine" / "whole.png")
    command = ["main", "--mode=restore", f"--workdir={tmp_path / 'run'}", f"--config.restore.files={tmp_path / 'mine'}"]
    assert main([*command, f"--config.sample.weights={tmp_path / 'mask.safetensors'}"]) == 0
    assert "whole.png is unchanged: it lacks nothing that mask0.5 takes" in capsys.readouterr().out


def test_an_invalid_condition_is_refused_in_one_line(refused, tmp_path):
    begin = "--config={configs}/tiny.py:form1 --workdir={new} --config.ddpm.condition="
    refused(begin + "dehaze", "ddpm.condition = 'dehaze'", "vae, downsample4, grayscale, mask0.5, blur2")
    refused(begin + "downsample4.0", "downsample takes a whole number, as in downsample4")
    refused(begin + "mask.5x", "mask takes a number, as in mask0.5")
    refused(begin + "blur200", "ddpm.condition = 'blur200': sigma of the blur = 200", "from 0.1 to 100.0")
    refused(begin + "downsample3", "downsample3", "must divide data.image_size = 16")
    refused(begin + "blur --config.ddpm.z_conditioning=True", "ddpm.condition = 'blur', ddpm.z_conditioning")
    refused(begin + "blur --stage=vae", "--stage=vae", "ddpm.condition = 'blur'")
    refused(begin.replace("form1", "uncond") + "blur", "'uncond' is shown nothing", "form1 or form2")
    model_of("blur").save(tmp_path / "blur.safetensors")
    refused(begin + "blur --config.vae.checkpoint=emoji", "vae.checkpoint", "'blur' has no VAE")
    refused(
        "--config={configs}/tiny.py --workdir={new} --config.sample.start=warm --config.sample.t_start=0", "t_start = 0"
    )
    refused("--mode=prior --workdir={new} --config.sample.weights={tmp}/blur.safetensors", "no VAE", "'blur'")
