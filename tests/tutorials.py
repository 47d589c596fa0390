"""Run the code of the pages in docs/tutorials, block by block.

python -m tests.tutorials PAGE FOLDER    runs the code of docs/tutorials/PAGE.md in a folder
"""

import os
import re
import subprocess
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"
# `vaedm` may not be installed.
SHELL = f"""set -euo pipefail
vaedm() {{ {sys.executable} -m vaedm_jax.main "$@"; }}
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks of a page that are run, in order: the language (`bash` or `python`) and the text.

    Blocks that follow each other are one if they have the same language.
    """
    text = (PAGES / f"{page}.md").read_text("utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(language, "".join(text for _, text in of)) for language, of in groupby(found, itemgetter(0))]


def run(page: str, folder: Path) -> None:
    """Run all blocks of a page in a folder, in order. A block that fails is an error."""
    for language, text in blocks(page):
        command = ["bash", "-c", SHELL + text] if language == "bash" else [sys.executable, "-c", text]
        subprocess.run(command, cwd=folder, env=environment(), check=True)


def environment() -> dict[str, str]:
    """Return the environment of a block, in which the checkout is importable from any folder."""
    root = str(PAGES.parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
