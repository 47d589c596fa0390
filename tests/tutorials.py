"""Run the code of the pages in docs/tutorials, block by block.

python -m tests.tutorials PAGE FOLDER    runs docs/tutorials/PAGE.md in a folder, with the sizes that it names
"""

import os
import re
import subprocess
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"
# `vaedm` may not be installed. TRAIN are more settings for trainings.
SHELL = """set -euo pipefail
vaedm() {{
  local more=()
  [[ "$*" != *--mode=train* ]] || more=({train})
  {python} -m vaedm_jax.main "$@" "${{more[@]}}"
}}
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks of a page that are run, in order: the language (`bash` or `python`) and the text.

    Blocks that follow each other are one if they have the same language.
    """
    text = (PAGES / f"{page}.md").read_text("utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(language, "".join(text for _, text in of)) for language, of in groupby(found, itemgetter(0))]


def run(page: str, folder: Path, train: str = "") -> str:
    """Run all blocks of a page in a folder, in order, and return what they print. A block that fails is an error.

    Args:
      train: settings that are added to each training.
    """
    printed, shell = "", SHELL.format(python=sys.executable, train=train)
    for language, text in blocks(page):
        command = ["bash", "-c", shell + text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=3600)
        printed += done.stdout
        assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout}\n{done.stderr}"
    return printed


def environment() -> dict[str, str]:
    """Return the environment of a block, in which the checkout is importable from any folder."""
    root = str(PAGES.parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


if __name__ == "__main__":
    print(run(sys.argv[1], Path(sys.argv[2])))
