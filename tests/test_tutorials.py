"""The tutorials name only what exists. `python -m tests.tutorials` runs them, which takes too long here."""

import ast
import re
import shlex

import pytest

from tests.tutorials import PAGES, blocks
from vaedm_jax.config import base_config, flatten
from vaedm_jax.config.named import named_configs
from vaedm_jax.main import CONVERSIONS, MODES

PAGE = pytest.mark.parametrize("page", sorted(page.stem for page in PAGES.glob("*.md")))


@PAGE
def test_the_commands_of_a_tutorial_have_modes_settings_and_configurations_that_exist(page):
    settings = flatten(base_config())
    for text in (text for language, text in blocks(page) if language == "bash"):
        for word in shlex.split(text, comments=True):
            name, _, value = word.partition("=")
            if name.startswith("--config."):
                assert name.removeprefix("--config.") in settings, word
            elif name == "--config":
                assert value.endswith(".py") or value in named_configs(), word
            elif name == "--mode":
                assert value in MODES.keys() | CONVERSIONS, word


@PAGE
def test_the_python_of_a_tutorial_is_valid_and_its_imports_exist(page):
    for text in (text for language, text in blocks(page) if language == "python"):
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), page, "exec"), {})


@PAGE
def test_every_block_of_a_tutorial_is_run_or_is_marked_as_text(page):
    fences = re.findall(r"^```(\w*)$", (PAGES / f"{page}.md").read_text(), re.MULTILINE)[::2]
    assert set(fences) <= {"bash", "python", "text"}
    assert blocks(page)


@PAGE
def test_every_picture_of_a_tutorial_is_there(page):
    for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", (PAGES / f"{page}.md").read_text()):
        assert (PAGES / name).exists(), name
