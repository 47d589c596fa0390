"""The weights in the package are small files of the repository's configurations, and their refiner sharpens."""

from pathlib import Path

import numpy as np
import pytest

from vaedm_jax import command_line as flags
from vaedm_jax.api import VAEDM, Samples
from vaedm_jax.config import MEASURED
from vaedm_jax.errors import UserError
from vaedm_jax.runs import weights
from vaedm_jax.runs.rundir import FREE, TUNABLE, differences
from vaedm_jax.runs.weights import NOT_IN_WHEEL, SHIPPED, model_at, model_name, shipped

CONFIG = Path(__file__).parents[1] / "configs" / "avatars.py"
FACES = {"avatars": "form1", "avatars-fast": "form1", "avatars-uncond": "uncond"}
LARGE = "avatars-64"  # in the repository, not in the wheel


@pytest.fixture(scope="module")
def model() -> VAEDM:
    return VAEDM.from_pretrained()


@pytest.fixture(scope="module")
def samples(model) -> Samples:
    """Return sixteen images by the chain of the configuration, ten steps from noise."""
    return model.sample(16, seed=0)


def test_the_files_are_small_enough_to_ship():
    sizes = {file.stem: file.stat().st_size for file in SHIPPED.glob("*.safetensors")}
    assert sizes.pop(LARGE) <= 6.5e6
    assert sizes.keys() == FACES.keys() and sum(sizes.values()) <= 15e6


def test_weights_that_a_wheel_lacks_are_said_to_be_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    assert NOT_IN_WHEEL == (LARGE,)
    with pytest.raises(UserError, match=f"'{LARGE}': .*repository, vaedm_jax/weights/{LARGE}.safetensors"):
        shipped(LARGE)


@pytest.mark.parametrize("name", FACES)
def test_the_weights_have_the_networks_and_the_target_of_their_configuration(name):
    found, wanted = VAEDM.from_pretrained(name).config, flags.load(f"{CONFIG}:{FACES[name]}")
    differing = differences(found, wanted, (*FREE, *TUNABLE, *MEASURED, "*.batch_size", "seed", "data.held_out"))
    assert differing.keys() == ({"ddpm.objective", "ddpm.doubling"} if name == "avatars-fast" else set())
    assert found.ddpm.prediction == "residual" and found.ddpm.sigma_data > 0
    assert not (found.data.path or found.data.archive), "no place of the machine that trained them"


def test_the_larger_weights_are_those_of_the_configuration_for_own_pictures():
    found, wanted = VAEDM.from_pretrained(LARGE).config, flags.load("own:64")
    differing = differences(found, wanted, (*FREE, *TUNABLE, *MEASURED, "*.batch_size", "seed", "data.held_out"))
    assert differing.keys() == {"data.source", "data.avatars", "vae.kl_warmup"}
    assert not (found.data.path or found.data.archive), "no place of the machine that trained them"


def detail(images: np.ndarray) -> np.ndarray:
    """Return how much neighbouring pixels differ in each image, [N]."""
    return sum(np.abs(np.diff(images, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2))


def test_the_refiner_sharpens_what_the_vae_generates(samples):
    sharper = detail(samples.images) / detail(samples.x_hat)
    assert np.median(sharper) > 1.2 and sharper.min() > 0.9


def test_each_refined_image_is_near_its_own_x_hat_and_far_from_most_others(samples):
    """Some x_hat are alike: they differ from each other as little as from what is refined of them."""
    distance = ((samples.images[:, None] - samples.x_hat[None]) ** 2).mean(axis=(2, 3, 4))
    own = np.diag(distance)
    assert (own < 1.25 * distance.min(axis=1)).all() and (own < 0.5 * np.median(distance, axis=1)).all()


def test_five_learnt_steps_are_nearer_to_fifty_than_those_of_the_solver(model):
    def images(steps: int, sampler: str) -> np.ndarray:
        return model.sample(16, seed=7, start="noise", steps=steps, sampler=sampler).images

    many = images(50, "unipc2")
    of_table, of_solver = (np.sqrt(np.mean((images(5, name) - many) ** 2)) for name in ("tuned", "unipc2"))
    assert of_table < 0.75 * of_solver


def test_a_name_is_a_file_or_a_run_before_it_is_that_of_weights_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "avatars").mkdir()  # a folder of pictures, say
    assert model_at("avatars") == shipped("avatars")
    (tmp_path / "mymodel").write_bytes(b"weights")
    assert model_at("mymodel") == tmp_path / "mymodel"
    with pytest.raises(UserError, match="weights 'nosuch': no such file; weights in the package: avatars"):
        model_at("nosuch")


@pytest.mark.parametrize("name", ["emoji", "runs/emoji", "runs/emoji/", "files/emoji.safetensors"])
def test_a_model_is_named_after_its_directory_or_file(name):
    assert model_name(name) == "emoji" and model_name(name.replace("emoji", "mask0.5")) == "mask0.5"
