#!/usr/bin/env bash
# Makes the weights that come with the package (vaedm_jax/weights/emoji.safetensors) anew; hours on two cores.
#   launch/weights.sh [WORKDIR]    stopped, it continues
# Those that come along had lower rates (5e-4, then 1e-4) in the first 4,700 steps of the refiner.
set -euo pipefail
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/emoji}
vaedm() { .venv/bin/python -m vaedm_jax.main --workdir="$workdir" --mode=train "$@"; }
final=(--config.ddpm.learning_rate=1e-4 --config.ddpm.ema_decay=0.998)  # a lower rate, to settle

vaedm --config=configs/emoji.py --config.ddpm.steps=11500
vaedm --config=configs/emoji.py "${final[@]}"
.venv/bin/python -c '
import sys
from vaedm_jax.api import SHIPPED, VAEDM
VAEDM.from_run(sys.argv[1]).save(SHIPPED / "emoji.safetensors", "float16")' "$workdir"
