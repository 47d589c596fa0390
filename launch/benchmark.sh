#!/usr/bin/env bash
# Measure this package and PyTorch side by side on this machine (docs/benchmarks.md). Nothing else should run.
#   launch/benchmark.sh                    write runs/benchmark/figures.jsonl and tables.md; takes an hour on two cores
#   launch/benchmark.sh --only=small       only programs whose name has this text, such as "full train 16 float32"
# It makes .venv and .venv-torch. TORCH="torch==2.14.1 --index-url URL" says what to install there; the default is the
# newest PyTorch. Continued after a stop, it does not measure again what figures.jsonl has.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
if ! .venv-torch/bin/python -c 'import diffusers, torch' 2>/dev/null; then
  .venv/bin/python -m venv .venv-torch
  # shellcheck disable=SC2086  # several words
  .venv-torch/bin/pip install --quiet ${TORCH:-torch}
  .venv-torch/bin/pip install --quiet diffusers
fi
exec .venv/bin/python launch/benchmark.py "$@"
