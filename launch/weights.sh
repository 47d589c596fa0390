#!/usr/bin/env bash
# Makes the weights that come with the package (vaedm_jax/weights/emoji.safetensors) anew; hours on two cores.
#   launch/weights.sh [WORKDIR]    stopped, it continues
set -euo pipefail
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/emoji}
.venv/bin/python -m vaedm_jax.main --config=configs/emoji.py --workdir="$workdir" --mode=train
.venv/bin/python -c '
import sys
from vaedm_jax.api import SHIPPED, VAEDM
VAEDM.from_run(sys.argv[1]).save(SHIPPED / "emoji.safetensors", "float16")' "$workdir"
