#!/usr/bin/env bash
# Measure training and sampling on the GPU of this machine, in ten minutes (docs/gpu.md).
#   launch/gpu_bench.sh                              write gpu.json, and print the tables
#   launch/gpu_bench.sh --out=FILE --seconds=300     write FILE, and start no measurement after 300 seconds
# PYTHON=/path/to/python launch/gpu_bench.sh uses that Python, which needs the package and JAX for CUDA. Without PYTHON,
# launch/env.sh makes .venv.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  launch/env.sh cuda
  PYTHON=.venv/bin/python
fi
exec "$PYTHON" launch/gpu_bench.py "$@"
