"""The documentation is built without a warning, has every page, and loads nothing from other servers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", name="site")
def site_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(
        [*command, "--config-file", "launch/site/mkdocs.yml"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_of_the_folder_is_in_the_menu(site):
    menu = (site / "index.html").read_text().split("md-nav--primary")[1]
    for page in (ROOT / "docs").rglob("*.md"):
        assert f'href="{page.relative_to(ROOT / "docs").with_suffix("")}/"' in menu, page.name
    assert all(f'href="{name}/"' in menu for name in ("api", "settings", "colab"))


def test_the_reference_has_every_public_method_of_a_model(site):
    from vaedm_jax import VAEDM

    text = (site / "api" / "index.html").read_text()
    for name in (name for name in vars(VAEDM) if not name.startswith("_")):
        assert f'id="vaedm_jax.api.VAEDM.{name}"' in text, name


def test_links_lead_to_pages_and_pictures_of_the_site(site):
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not link.startswith(("http", "mailto:", "data:", "/")):
                assert (page.parent / link).exists(), f"{page.relative_to(site)}: {link}"


def test_the_pages_load_nothing_from_other_servers(site):
    loaded = r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]*)"|<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]*)"'
    for page in site.rglob("*.html"):
        assert re.findall(loaded, page.read_text()) == [], page.relative_to(site)
