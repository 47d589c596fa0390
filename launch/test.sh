#!/usr/bin/env bash
# Run the linter and the tests. If the environment is missing, make it first.
#   launch/test.sh              with the locked versions
#   launch/test.sh --oldest     with the oldest versions that setup.py allows (JAX: that of Colab's TPU image)
#   launch/test.sh --newest     with today's newest versions
#   launch/test.sh -k golden    pass other arguments to pytest
# --oldest and --newest use the newest Python from 3.11 to 3.13 that is found, and do not run the linter.
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
    print("test.sh: skipped: Python 3.13, which Colab uses; it was not found on this machine")
VERSIONS
    ;;
  *)
    launch/env.sh
    python=.venv/bin/python
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    ;;
esac
exec "$python" -m pytest -n auto --dist loadfile --no-loadscope-reorder -rs "$@"
