#!/usr/bin/env bash
# Make the tables, plots and bounds of docs/emoji.md with the models that launch/emoji.sh trains. This takes some four
# hours on two cores with AVX-512.
#   launch/comparison.sh [WORKDIR]    run it again to continue after a stop. WORKDIR is runs/comparison by default
# The tables and plots are in WORKDIR/noise/evaluation, WORKDIR/starts/evaluation and WORKDIR/t_start/evaluation.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/comparison}
refiners=runs/emoji,runs/emoji-form2
all=$refiners,runs/emoji-uncond
score() {  # FOLDER RUNS STARTS SAMPLERS STEPS [SETTING...]
  .venv/bin/python -m vaedm_jax.main --workdir="$workdir/$1" --mode=evaluate --config.eval.runs="$2" --config.eval.starts="$3" \
    --config.eval.samplers="$4" --config.eval.steps="$5" --config.eval.n=512 --config.eval.equal_nfe=True "${@:6}"
}
score noise $all noise ddpm,ddim,heun,dpm++2m,dpm++3m,unipc2,unipc3,ipndm 5,10,25
score noise $all noise ddim 5,10,25,50 --config.sample.clip_eps=False
score noise $all noise ddpm,ddim,dpm++2m,unipc2 50,100
score starts $refiners warm500 ddpm,ddim,unipc2 5,10,25
score starts $refiners warm500 ddpm 50
score starts $all truncated ddpm,unipc2 5,10,25
score t_start $refiners warm0 ddpm,unipc2 5,10,25
score t_start runs/emoji warm100,warm200,warm300,warm400,warm500,warm600,warm700,warm800,warm900 ddim 10
score noise $all noise ddpm 1000 --config.eval.bits=32
