#!/usr/bin/env bash
# Make the figures and tables of docs/latents.md with the weights in the package. This takes half an hour on two cores with
# AVX-512. The page's table and picture of guidance are of an earlier model.
#   launch/latents.sh [WORKDIR]    run it again to continue after a stop. WORKDIR is runs/latents by default
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
workdir=${1:-runs/latents}
vaedm() { .venv/bin/python -m vaedm_jax.main "$@"; }

vaedm --workdir="$workdir" --mode=figures --config.eval.runs=avatars,avatars-uncond

restore() { vaedm --workdir="$workdir" --mode=restore --config.sample.weights=avatars --config.restore.n=256 "$@"; }
for factor in 2 4; do restore --config.restore.task=super --config.restore.factor=$factor; done
for sigma in 0.05 0.1 0.2 0.5; do restore --config.restore.task=denoise --config.restore.sigma=$sigma; done

score() { vaedm --mode=evaluate --config.eval.steps=10 --config.eval.n=1000 "$@"; }
for temperature in 0.7 0.8 0.9 1.0 1.1; do
  score --workdir="$workdir" --config.eval.runs=avatars --config.sample.temperature=$temperature
done

# Guidance needs a refiner that was trained without x_hat too. So train the refiner of `avatars` for 1,000 more steps with
# dropout of the condition.
vaedm --workdir="$workdir/guided" --mode=train --config=configs/avatars.py --config.vae.checkpoint=avatars \
  --config.ddpm.init=avatars --config.ddpm.cond_dropout=0.1 --config.ddpm.steps=1000 --config.ddpm.batch_size=64 \
  --config.ddpm.learning_rate=3e-4
vaedm --workdir="$workdir/guided" --mode=figures
for guidance in 0 0.25 0.5 1 2; do score --workdir="$workdir/guided" --config.sample.guidance=$guidance; done
