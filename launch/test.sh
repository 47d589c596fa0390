#!/usr/bin/env bash
# Makes the environment where it is not there, and runs the linter and the tests in it.
#   launch/test.sh              all
#   launch/test.sh -k golden    arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."

launch/env.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n auto "$@"
