#!/usr/bin/env bash
# Makes the environment where it is not there, and runs the linter and the tests in it.
#   launch/test.sh              all, with the locked versions
#   launch/test.sh --oldest     all, with the oldest versions that setup.py allows, which are those of Colab's TPU image
#   launch/test.sh --newest     all, with today's newest versions
#   launch/test.sh -k golden    other arguments go to pytest
# The ends run on the newest Python from 3.11 to 3.13 that is found, and leave out the linter.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

case ${1:-} in
  --oldest | --newest)
    end=${1#--} python=.venv-${1#--}/bin/python
    shift
    launch/env.sh "$end"
    "$python" - "$end" <<'VERSIONS'
import platform, sys
from importlib.metadata import version

found = platform.python_version()
print(f"test.sh: the {sys.argv[1]} versions on Python {found}:", *(f"{p} {version(p)}" for p in ("jax", "flax", "numpy")))
if sys.argv[1] == "oldest" and not found.startswith("3.13."):
    print("test.sh: skipped: Python 3.13, which Colab has and which was not found here")
VERSIONS
    ;;
  *)
    launch/env.sh
    python=.venv/bin/python
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    ;;
esac
exec "$python" -m pytest -n auto -rs "$@"
