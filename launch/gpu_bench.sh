#!/usr/bin/env bash
# Measures training and sampling on the GPU of this machine, in ten minutes: see docs/gpu.md.
#   launch/gpu_bench.sh                      writes gpu.json, and prints the tables
#   launch/gpu_bench.sh --out=FILE --seconds=300
# PYTHON=/path/to/python launch/gpu_bench.sh uses a Python that has the package and JAX for CUDA; else .venv is made.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  launch/env.sh cuda
  PYTHON=.venv/bin/python
fi
exec "$PYTHON" launch/gpu_bench.py "$@"
