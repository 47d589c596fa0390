"""Restoration: what each task removes, where the chain starts, how near the result is, and the mode `restore`."""

import csv
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.pictures import noise
from tests.tiny import by_noise, random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.conditioning.tasks import Denoising, SuperResolution, check_size, make_task
from vaedm_jax.data import Dataset
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.schedule import linear_schedule
from vaedm_jax.diffusion.spacing import principal_variance, warm_step
from vaedm_jax.errors import UserError
from vaedm_jax.evaluation.fidelity import psnr, ssim
from vaedm_jax.main import main
from vaedm_jax.modes.restore import output_names, restore_held_out, row
from vaedm_jax.modes.shared.restoration import restore_images
from vaedm_jax.reporting import save_png
from vaedm_jax.training.stages import ddpm_stage, vae_stage

FULL = linear_schedule()
RNG = np.random.default_rng(0)
TRUTH = RNG.random((3, 16, 20, 3), np.float32)
NOISY = np.clip(TRUTH + 0.2 * RNG.standard_normal(TRUTH.shape), 0, 1).astype(np.float32)


def test_fidelity_is_that_of_scikit_image():
    """The numbers are those of scikit-image 0.26.0.

    The SSIM is structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False).
    """
    np.testing.assert_allclose(ssim(NOISY, TRUTH), [0.800242006778, 0.825675308704, 0.836757183075], rtol=1e-5)
    np.testing.assert_allclose(psnr(NOISY, TRUTH), [14.7953480789, 14.8063974877, 15.1325019011], rtol=1e-6)
    np.testing.assert_allclose(ssim(TRUTH, TRUTH), 1, rtol=1e-6)


def test_an_image_that_is_returned_unchanged_leaves_the_mean_psnr_finite():
    limit = 20 * np.log10(510)
    np.testing.assert_allclose(psnr(TRUTH, TRUTH), limit, rtol=1e-12)
    np.testing.assert_allclose(psnr(np.float32(TRUTH + 1e-6), TRUTH), limit, rtol=1e-12)
    restored = np.concatenate([TRUTH[:1], NOISY[1:]])
    scores = row("grayscale", "agreeing", restored, TRUTH)
    values = [limit, *psnr(NOISY[1:], TRUTH[1:])]
    assert scores["psnr"] == pytest.approx(np.mean(values)) and np.isfinite(scores["psnr_error"])


def test_an_image_is_reduced_to_means_and_enlarged_as_by_pillows_bicubic_filter():
    task, images = SuperResolution(2), np.float32(RNG.integers(0, 256, (2, 8, 12, 3))) / 255
    small = task.corrupt(images)
    assert small.shape == (2, 4, 6, 3)
    np.testing.assert_allclose(small[0, 1, 2], images[0, 2:4, 4:6].mean(axis=(0, 1)), rtol=1e-6)
    grey = np.uint8(RNG.integers(60, 190, (4, 4, 1))).repeat(3, axis=2)
    want = np.asarray(Image.fromarray(grey).resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(task.lift(grey[None] / 255)[0] * 255, want, atol=1)  # Pillow rounds twice


def test_an_image_made_consistent_with_the_damaged_one_is_nearer_to_the_truth():
    task = SuperResolution(2)
    truth = 0.3 + 0.4 * TRUTH
    guess = np.clip(truth + 0.1 * RNG.standard_normal(truth.shape), 0, 1).astype(np.float32)
    agreeing = task.make_consistent(guess, task.corrupt(truth))
    np.testing.assert_allclose(task.corrupt(agreeing), task.corrupt(truth), atol=1e-6)
    assert (psnr(agreeing, truth) > psnr(guess, truth)).all()


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_the_chain_of_a_noisy_image_starts_at_that_image(sigma):
    task = Denoising(sigma)
    chain = task.begin(Chain("ddim", 1, clip=False), FULL, None)
    variance = (1 - FULL.alpha_bar[chain.t_start]) / FULL.alpha_bar[chain.t_start]
    assert np.sqrt(variance) / 2 == pytest.approx(sigma, rel=0.1)

    def begun(noisy):
        """Return u / sqrt(alpha_bar) at the start of the chain. One step returns it if no noise is predicted."""
        keys, u = jax.random.split(jax.random.key(0), len(noisy)), jnp.asarray(2 * noisy - 1)
        return (
            run_chain(chain.arrays(FULL), by_noise(lambda u, t: 0 * u), keys, u.shape[1:], u, task.x_T(noisy)) + 1
        ) / 2

    inside = (NOISY > 0) & (NOISY < 1)
    np.testing.assert_allclose(begun(NOISY)[inside], NOISY[inside], atol=1e-5)
    for ground in (0.0, 1.0):  # clipped noise is drawn anew, so that the noise is normal again
        found = np.asarray(begun(task.corrupt(np.full((1, 200, 200, 3), ground, np.float32), 1)), np.float64)
        assert found.mean() == pytest.approx(ground, abs=0.02 * sigma)
        assert found.std() == pytest.approx(sigma, rel=0.1)
    assert Denoising(0.001).begin(Chain("ddim", 10), FULL, None).steps == 1


def test_the_chain_of_a_reduced_image_starts_by_the_rule_for_x_hat():
    task, chain = SuperResolution(2), Chain("unipc2", 10)
    error = 2 * (task.lift(task.corrupt(TRUTH)) - TRUTH)
    begun = task.begin(chain, FULL, lambda: TRUTH)
    assert (begun.start, begun.t_start) == ("warm", warm_step(FULL, principal_variance(error), 10))
    assert begun.temperature == 1


@pytest.mark.parametrize("task", [SuperResolution(2), Denoising(0.1)])
def test_a_learnt_table_which_is_of_another_start_is_replaced_by_its_solver(task):
    chains = (task.begin(Chain(sampler, 3), FULL, lambda: TRUTH) for sampler in ("tuned", "unipc2", "ddim"))
    assert [chain.sampler for chain in chains] == ["unipc2", "unipc2", "ddim"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(task="dehaze"), ["restore.task = 'dehaze'", "super, denoise"]),
        (dict(task="super", factor=3), ["factor = 3", "16 x 20"]),
    ],
)
def test_impossible_tasks_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        make_task(SimpleNamespace(**settings)).corrupt(TRUTH)
    assert all(word in str(caught.value) for word in words)


@pytest.fixture(name="weights", scope="module")
def weights_fixture(tmp_path_factory):
    """Return a file of a tiny model of Formulation 2."""
    config = tiny_config("form2")
    vae = random_params(vae_stage(config), 1)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file)
    return file


def restore(workdir, weights, *options):
    own = [
        f"--config.sample.weights={weights}",
        "--config.sample.steps=2",
        "--config.eval.features=tests.tiny_features:means",
    ]
    return main(["main", f"--workdir={workdir}", "--mode=restore", *own, *options])


def test_held_out_images_are_restored_and_scored(tmp_path, weights, capsys):
    assert restore(tmp_path, weights, "--config.restore.n=4", "--config.restore.task=denoise") == 0
    with open(tmp_path / "restored" / "tiny_denoise0.1_ddpm_warm57_2.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["way"] for row in rows] == ["noisy", "VAE", "from noise", "from t = 57"]
    assert 19 < float(rows[0]["psnr"]) < 24  # 20 dB, and somewhat more, since clipping removes noise
    assert "denoise0.1, 4 held-out images" in (tmp_path / "report.html").read_text()
    assert "PSNR" in capsys.readouterr().out
    there = {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()}
    assert restore(tmp_path, weights, "--config.restore.n=3", "--config.restore.task=denoise") == 0
    now = {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()}
    assert sorted(now) == sorted([*there, *(name.replace("57_2.", "57_2_1.") for name in there)])
    assert all(now[name.replace("57_2.", "57_2_1.")] == data for name, data in there.items()), "nothing is lost"


def test_pictures_of_a_user_are_restored_at_their_own_size(tmp_path, weights):
    folder = tmp_path / "mine" / "deep"
    folder.mkdir(parents=True)
    noise(10).resize((13, 10)).save(folder / "a.jpg")
    noise(7).save(folder.parent / "b.png")
    noise(5).save(folder.parent / "b.jpg")
    assert restore(tmp_path / "out", weights, f"--config.restore.files={folder.parent}") == 0
    (target,) = (tmp_path / "out" / "restored").iterdir()
    (restored,) = target.iterdir()
    assert target.name.startswith("tiny_super2_ddpm_warm") and restored.name == "mine"
    sizes = {p.relative_to(restored).as_posix(): Image.open(p).size for p in restored.rglob("*.png")}
    assert sizes == {"deep/a.png": (26, 20), "b.png.png": (14, 14), "b.jpg.png": (10, 10)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config.restore.task=dehaze"], ["restore.task = 'dehaze'"]),
        (["--config.restore.factor=1"], ["restore.factor = 1", "2 or more"]),
        (["--config.restore.sigma=0"], ["restore.sigma = 0"]),
        (["--config.restore.files={tmp}/none"], ["restore.files", "none is not there"]),
        (["--config.restore.files={tmp}/empty"], ["empty holds no images"]),
        (["--config.restore.files=setup.py"], ["setup.py is a file"]),
        (["--config.sample.weights=avatars-uncond"], ["plain DDPM", "form1"]),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_line(tmp_path, weights, capsys, options, words):
    (tmp_path / "empty").mkdir()
    assert restore(tmp_path, weights, *(option.format(tmp=tmp_path) for option in options)) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words) and printed.rstrip().splitlines()[-1].startswith("vaedm:")
    assert not (tmp_path / "restored").exists()


def test_a_picture_that_is_too_large_is_named_before_any_is_restored(tmp_path, weights, capsys):
    (tmp_path / "mine").mkdir()
    noise(8).save(tmp_path / "mine" / "a.png")
    noise(20).save(tmp_path / "mine" / "b.png")
    options = [f"--config.restore.files={tmp_path / 'mine'}", "--config.restore.pixels=400"]
    assert restore(tmp_path / "out", weights, *options) == 2
    told = capsys.readouterr().err
    assert "restore.pixels: " in told and "b.png: 40 x 40 pixels would be restored" in told
    assert not list(tmp_path.rglob("out/restored/**/*.png"))


def test_pictures_of_which_a_refiner_cannot_be_given_z_are_named_before_any_is_restored(tmp_path, capsys):
    config = tiny_config(**{"ddpm.z_conditioning": True})
    vae = random_params(vae_stage(config), 1)
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file := tmp_path / "z.safetensors")
    (tmp_path / "mine").mkdir()
    noise(8).save(tmp_path / "mine" / "a.png")
    options = [f"--config.restore.files={tmp_path / 'mine'}", "--config.restore.task=super"]
    assert restore(tmp_path / "out", file, *options) == 0
    noise(9).save(tmp_path / "mine" / "b.png")
    assert restore(tmp_path / "other", file, *options) == 2
    assert "b.png: 18 x 18 pixels would be restored; this refiner takes z too" in capsys.readouterr().err
    assert not list(tmp_path.rglob("other/restored/**/*.png"))


def test_the_limit_of_pixels_names_a_setting_only_where_there_is_one():
    """The explorer has a fixed limit; mode `restore` puts the name of its setting before the message."""
    with pytest.raises(UserError, match=r"^the picture: 40 x 40 pixels .* the limit is 1,000, since") as caught:
        check_size("the picture", SuperResolution(2), (20, 20, 3), 1000)
    assert "restore.pixels" not in str(caught.value)


def test_a_factor_need_not_divide_the_size_of_the_training_images(weights):
    model = VAEDM.from_checkpoint(weights)
    chain = SuperResolution(3).begin(Chain("ddim", 2), FULL, lambda: TRUTH)
    assert restore_images(model, SuperResolution(3), chain, TRUTH[:1, :8, :8], progress=False).shape == (
        1,
        24,
        24,
        3,
    )


def test_denoising_needs_no_training_images_and_a_moved_folder_can_be_named(tmp_path, capsys):
    config = tiny_config("form1", **{"data.path": str(tmp_path / "gone")})
    vae = random_params(vae_stage(config), 1)
    VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2)).save(file := tmp_path / "own.safetensors")
    (tmp_path / "mine").mkdir()
    for i in range(70):
        noise(16, i).save(tmp_path / "mine" / f"{i}.png")
    files, own = f"--config.restore.files={tmp_path / 'mine'}", [f"--config.sample.weights={file}"]
    command = ["main", f"--workdir={tmp_path / 'out'}", "--mode=restore", *own, "--config.sample.steps=2"]
    assert main([*command, files, "--config.restore.task=denoise"]) == 0
    assert main([*command, files]) == 2
    assert "gone" in capsys.readouterr().err
    assert main([*command, "--config.restore.n=5", f"--config.data.path={tmp_path / 'mine'}"]) == 0
    sampling = ["main", f"--workdir={tmp_path / 'out'}", "--mode=sample", *own, "--config.sample.nearest=True"]
    assert main([*sampling, "--config.sample.n=2", "--config.sample.steps=2"]) == 0
    assert "without the nearest training images" in capsys.readouterr().out


def test_a_file_that_is_no_image_is_named(tmp_path, weights, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "torn.png").write_bytes(b"no picture")
    assert restore(tmp_path / "out", weights, f"--config.restore.files={tmp_path / 'mine'}") == 2
    assert "torn.png cannot be read as an image" in capsys.readouterr().err


def test_images_that_are_too_small_for_ssim_are_refused_before_they_are_restored(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"8 x 8 pixels.*11 or more"):
        restore_held_out(tiny_config(), None, None, None, Dataset("small", images, images), tmp_path)


def test_each_picture_is_written_to_its_own_file():
    def become(*names):
        given = output_names(list(names))
        assert list(sorted(given)) == sorted(names) and len(set(given.values())) == len(names)
        assert all(name.endswith(".png") for name in given.values())
        return [given[name] for name in names]

    assert become("a.jpg", "deep/a.jpg") == ["a.png", "deep/a.png"]
    assert become("a.jpg", "a.png") == ["a.jpg.png", "a.png.png"]
    assert become("a.png", "a.png.png") == ["a.png", "a.png.png"]
    become("a.jpg", "a.png", "a.jpg.png")
    assert become("a.jpg", "a.png/b.jpg") == ["a.jpg.png", "a.png/b.png"], "a.png is a folder"
    become("a.jpg", "a.png", "a.jpg.png", "a.png.png", "a.png.jpg", "a.jpg_1.png", "a.jpg.png.png", "a.jpg.png.jpg")


def test_a_later_command_replaces_no_picture(tmp_path, capsys):
    for colour in ("red", "red", "blue"):
        save_png(tmp_path / "a.png", Image.new("RGB", (4, 4), colour), keep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_1.png"]
    assert Image.open(tmp_path / "a_1.png").getpixel((0, 0)) == (255, 0, 0)


def test_the_refiner_is_shown_a_reconstruction_and_the_chain_begins_at_the_damaged_image():
    """At almost no noise the chain keeps the image that it begins at, whatever it is shown."""
    config = tiny_config()
    vae = random_params(vae_stage(config))
    model = VAEDM(config, vae, random_params(ddpm_stage(config, vae)))
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    chain = Chain("ddim", 1, start="warm", t_start=1)
    kept = model.refine(model.reconstruct(images), begin=images, chain=chain, progress=False)
    assert np.abs(kept - images).max() < 0.1 < np.abs(model.reconstruct(images) - images).max()
    task, chain = Denoising(0.1), Denoising(0.1).begin(Chain("ddim", 3), model.schedule, lambda: images)
    noisy = task.corrupt(images)
    mine = restore_images(model, task, chain, noisy, progress=False)
    by_hand = model.refine(model.reconstruct(noisy), begin=noisy, x_T=task.x_T(noisy), chain=chain, progress=False)
    np.testing.assert_array_equal(mine, by_hand)
    with pytest.raises(UserError, match="begin is given, but start = 'noise'"):
        model.sample(2, begin=images, chain=Chain("ddim", 3))
    with pytest.raises(UserError, match=r"begin has the shape \(1, 16, 16, 3\); it must be that of the images"):
        model.refine(images, begin=images[:1], chain=chain)
