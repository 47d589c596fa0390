"""The code of the tutorials runs from the first block to the last."""

import re

import pytest

from tests.tutorials import PAGES, blocks, run

# For trainings: one step of few images, with small networks.
TINY = (
    "--config.vae.steps=1 --config.ddpm.steps=1 --config.vae.batch_size=8 --config.ddpm.batch_size=8 "
    "--config.ddpm.channels=32 --config.ddpm.multipliers='(1,)' --config.ddpm.attention='()' --config.ddpm.blocks=1 "
    "--config.ddpm.heads=4 --config.log.images=2 --config.log.sample_steps=2"
)


@pytest.mark.parametrize("page", sorted(page.stem for page in PAGES.glob("*.md")))
def test_the_code_of_a_tutorial_runs(page, tmp_path):
    run(page, tmp_path, TINY)


def test_every_picture_of_a_tutorial_is_there():
    for page in PAGES.glob("*.md"):
        for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text()):
            assert (PAGES / name).exists(), f"{page.name}: {name}"


def test_every_block_of_a_tutorial_is_run_or_is_marked_as_text():
    for page in PAGES.glob("*.md"):
        fences = re.findall(r"^```(\w*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(fences) <= {"bash", "python", "text"}, page.name
        assert blocks(page.stem)
