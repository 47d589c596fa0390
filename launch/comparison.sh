#!/usr/bin/env bash
# Remakes the comparison from noise of docs/samplers.md, by the weights in the package; 50 minutes on two cores (AVX-512).
#   launch/comparison.sh [WORKDIR]    stopped, it continues; tables and plots lie in WORKDIR/evaluation
set -euo pipefail
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/comparison}
score() {
  .venv/bin/python -m vaedm_jax.main --workdir="$workdir" --mode=evaluate --config.eval.runs=emoji,emoji-form2,emoji-uncond \
    --config.eval.n=512 --config.eval.equal_nfe=True --config.eval.starts=noise "$@"
}
score --config.eval.samplers=ddpm,ddim,heun,dpm++2m,dpm++3m,unipc2,unipc3,ipndm --config.eval.steps=5,10,25
score --config.eval.samplers=ddpm,ddim,dpm++2m,unipc2 --config.eval.steps=50
