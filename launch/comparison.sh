#!/usr/bin/env bash
# Remakes the tables of docs/samplers.md from the weights in the package; hours on two cores.
#   launch/comparison.sh [WORKDIR]    stopped, it continues; what is done lies in WORKDIR/evaluation
set -euo pipefail
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/comparison}
evaluate() {
  local runs=$1; shift
  .venv/bin/python -m vaedm_jax.main --workdir="$workdir" --mode=evaluate --config.eval.runs="$runs" \
    --config.eval.n=512 --config.eval.equal_nfe=True "$@"
}
all=emoji-uncond,emoji,emoji-form2
refiners=emoji,emoji-form2
every=ddpm,ddim,heun,dpm++2m,dpm++3m,unipc2,unipc3,ipndm

evaluate $all --config.eval.samplers=$every --config.eval.starts=noise --config.eval.steps=5,10,25
