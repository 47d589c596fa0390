"""The page of the explorer in a headless browser, if Gradio, Playwright and Chromium are installed."""

import json
import shutil

import pytest

from tests.explorer_fixtures import explorer_fixture  # noqa: F401
from tests.pictures import noise

WHY = "an extra: launch/env.sh explore, pip install playwright"
gradio = pytest.importorskip("gradio", reason=WHY)
playwright = pytest.importorskip("playwright.sync_api", reason=WHY)


@pytest.fixture(scope="module", name="address")
def address_fixture(explorer):
    from vaedm_jax.modes.explorer.page import build_page, launch

    explorer.compile()
    served = build_page(explorer, "test", "face")
    _, address, _ = launch(served, explorer, server_name="127.0.0.1")
    yield address
    served.close()


@pytest.fixture(scope="module", name="browser")
def browser_fixture():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Page:
    """The page, opened at an address. `shown` is the query that both images show."""

    def __init__(self, browser, address: str):
        self.page = browser.new_page(viewport={"width": 1280, "height": 720})
        self.page.set_default_timeout(30_000)
        self.page.goto(address)
        self.shown = ""
        self.wait()

    def wait(self) -> str:
        """Wait until both images show another query than before, and the address has it; return it."""
        drawn = """old => {
          const [x, y] = ["x_hat", "refined"].map((id) => document.querySelector(`#${id} img`)?.dataset.query);
          return x && x !== old && x === y && location.search === "?" + x && x;
        }"""
        self.shown = self.page.wait_for_function(drawn, arg=self.shown).json_value()
        return self.shown

    def pixels(self, name: str) -> str:
        """Return an image of the page as a data URL."""
        return self.page.evaluate(
            """async (name) => {
              const blob = await (await fetch(document.querySelector(`#${name} img`).src)).blob();
              return new Promise((done) => {
                const reader = new FileReader();
                reader.onload = () => done(reader.result);
                reader.readAsDataURL(blob);
              });
            }""",
            name,
        )

    def images(self) -> tuple[str, str]:
        return self.pixels("x_hat"), self.pixels("refined")


@pytest.fixture
def page(browser, address):
    opened = Page(browser, address)
    yield opened
    opened.page.close()


def test_the_page_opens_with_a_random_picture_and_fits_a_laptop(page):
    assert not page.shown.startswith("position=0,0")
    sizes = page.page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
    assert sizes[0] <= 720 and sizes[1] <= 1280


def test_a_slider_changes_both_images_and_undo_restores_them(page):
    first, before = page.shown, page.images()
    page.page.locator("#z0 input[type=range]").focus()
    page.page.keyboard.press("Home")  # once: a slow machine takes several presses for several visits
    page.wait()
    assert all(a != b for a, b in zip(before, page.images(), strict=True))
    page.page.keyboard.press("u")
    assert page.wait() == first and page.images() == before


def test_the_strip_goes_back_to_a_former_picture(page):
    first, before = page.shown, page.images()
    page.page.keyboard.press("r")
    page.wait()
    page.page.get_by_role("button", name="New noise").click()
    page.wait()
    page.page.get_by_role("button", name="Go back to picture 1").click()
    assert page.wait() == first and page.images() == before
    assert page.page.locator("#strip button").count() == 3


def test_a_saved_file_and_the_address_give_the_same_picture(page, browser, address, tmp_path):
    page.page.get_by_label("From noise").check()
    page.wait()
    saved, before = page.shown, page.images()
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Save").click()
    file = tmp_path / "saved.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["image"] == before[1]
    page.page.get_by_role("button", name="Random face").click()
    page.wait()
    page.page.locator("input[type=file][accept='.json']").set_input_files(file)
    assert page.wait() == saved and page.images() == before
    other = Page(browser, f"{address}?{saved}")
    assert other.shown == saved and other.images() == before
    assert other.page.get_by_label("From noise").is_checked()
    other.page.close()


def test_a_picture_moves_the_sliders_and_a_wrong_file_is_named(page, tmp_path):
    noise(16).save(tmp_path / "a.png")
    page.page.locator("#dropped input[type=file]").set_input_files(tmp_path / "a.png")
    position = page.wait().split("&")[0].removeprefix("position=").split(",")
    assert float(page.page.locator("#z0 input[type=number]").input_value()) == float(position[0])
    (tmp_path / "wrong.json").write_text("{}")
    page.page.locator("input[type=file][accept='.json']").set_input_files(tmp_path / "wrong.json")
    page.page.get_by_text("kind is missing").wait_for()


def test_two_faces_are_mixed(page):
    first = page.shown
    page.page.get_by_role("tab", name="Mix").click()
    share = page.page.locator("#share input[type=range]")
    share.focus()
    page.page.keyboard.press("End")
    assert page.wait() != first
    page.page.keyboard.press("Home")
    assert page.wait() == first
    page.page.get_by_role("button", name="A − B + C").click()
    page.wait()
