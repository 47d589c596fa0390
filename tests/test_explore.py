"""The explorer: the functions behind its page, and the page in a headless browser, if one is installed."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.pictures import noise
from tests.tiny import random_params, tiny_config
from vaedm_jax import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.errors import UserError
from vaedm_jax.modes import explore
from vaedm_jax.training.stages import ddpm_stage, vae_stage


@pytest.fixture(scope="module")
def explorer():
    config = tiny_config(**{"sample.start": "warm"})
    vae = random_params(vae_stage(config), 1)
    model = VAEDM(config, vae, random_params(ddpm_stage(config, vae), 2))
    images = np.random.default_rng(0).random((40, 16, 16, 3), np.float32)
    return explore.Explorer(model, images, make_chain(config.sample))


def test_the_axes_are_principal_components_as_long_as_a_standard_deviation(explorer):
    z = explorer.model.encode(explorer.images)
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    lengths = np.linalg.norm(explorer.axes, axis=1)
    np.testing.assert_allclose(lengths**2, values[::-1][: len(lengths)], rtol=1e-4)
    np.testing.assert_allclose(np.abs(explorer.axes[0] @ vectors[:, -1]) / lengths[0], 1, rtol=1e-4)
    np.testing.assert_allclose(explorer.shares, values[::-1][: len(lengths)] / values.sum(), rtol=1e-4)


def test_sliders_change_x_hat_and_the_seed_changes_only_the_refined_image(explorer):
    middle = [0.0] * len(explorer.axes)
    a, b, c = (
        explorer.draw(seed, 2, "ddim", "warm", *z) for seed, z in ((0, middle), (1, middle), (0, [2.0, *middle[1:]]))
    )
    assert a[0].shape == a[1].shape == (256, 256, 3) and a[0].dtype == np.uint8
    np.testing.assert_array_equal(a[0], b[0])
    assert (a[1] != b[1]).any() and (a[0] != c[0]).any()


def test_a_picture_moves_the_sliders_to_its_position(explorer, tmp_path):
    noise(16).save(tmp_path / "a.png")
    positions = explorer.positions(str(tmp_path / "a.png"))
    z = explorer.model.encode(np.asarray(noise(16))[None])[0] - explorer.mean
    rest = z - np.array(positions) @ explorer.axes
    np.testing.assert_allclose(explorer.axes @ rest, 0, atol=0.006 * np.max(np.sum(explorer.axes**2, axis=1)))


def test_pictures_are_restored_and_interpolated(explorer, tmp_path):
    for i, name in enumerate("ab"):
        noise(8, i).save(tmp_path / f"{name}.png")
    a, b = (str(tmp_path / f"{name}.png") for name in "ab")
    assert explorer.restore(a, "super", 2, 0.1).shape == (256, 256, 3)
    assert explorer.restore(a, "denoise", 2, 0.1).shape == (256, 256, 3)
    way = explorer.interpolate(a, b, "spherical", 0)
    assert len(way) == 7 and (way[0] != way[-1]).any()


def test_a_file_that_is_no_picture_or_too_large_is_refused_before_it_is_decoded(explorer, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    for name, words in (("text.png", "cannot be read"), ("large.png", "600 x 600")):
        with pytest.raises(UserError, match=words):
            explorer.restore(str(tmp_path / name), "super", 2, 0.1)
    for name, words in (("bomb.png", "20000 x 20000"), ("huge.png", "5000 x 5000")):
        with pytest.raises(UserError, match=words):
            explorer.positions(str(tmp_path / name))
    with pytest.raises(UserError, match="drop a picture"):
        explorer.positions(None)


def test_the_page_is_served_only_to_this_machine_by_default():
    assert tiny_config().explore.host == "127.0.0.1"


@pytest.fixture
def page(explorer):
    """Serve the page and return it, opened in Chromium."""
    pytest.importorskip("gradio", reason="Gradio is not installed: launch/env.sh explore")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: launch/env.sh explore")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed")
    served = explore.build_page(explorer, "test")
    _, address, _ = served.launch(**explore.LAUNCH, server_name="127.0.0.1", prevent_thread_lock=True)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        opened.goto(address)
        yield opened
        browser.close()
    served.close()


def test_the_page_opens_and_a_slider_changes_the_image(page, tmp_path):
    image = page.locator("#refined img")
    image.wait_for(timeout=120_000)

    def changes(act):
        before = image.get_attribute("src")
        act()
        changed = "before => document.querySelector('#refined img').src != before"
        page.wait_for_function(changed, arg=before, timeout=60_000)

    def move():
        page.locator("#z0 input[type=range]").focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")

    changes(move)
    changes(page.get_by_role("button", name="another x_T").click)
    (tmp_path / "text.png").write_text("no picture")
    with page.expect_response(lambda response: "/upload" in response.url):
        page.locator("input[type=file]").first.set_input_files(tmp_path / "text.png")
    changes(move)
