#!/usr/bin/env bash
# Train the three models of docs/emoji.md on the emoji, into runs/emoji (form1), runs/emoji-form2 and runs/emoji-uncond.
#   launch/emoji.sh [VARIANT...]    by default form1 form2 uncond; each takes three hours on two cores
# Run it again to continue after a stop.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
variants=("$@")
((${#variants[@]})) || variants=(form1 form2 uncond)

for variant in "${variants[@]}"; do
  case $variant in
    form1) name=emoji same=() ;;
    uncond) name=emoji-uncond same=() ;;
    form2) name=emoji-form2 same=(--config.vae.checkpoint=runs/emoji) ;;  # the VAE of form1
    *) echo "emoji.sh: there is no variant '$variant'; use form1, form2 or uncond" >&2; exit 2 ;;
  esac
  train=(.venv/bin/python -m vaedm_jax.main --mode=train --config="configs/emoji.py:$variant" --workdir="runs/$name" "${same[@]}")
  "${train[@]}" --config.ddpm.steps=11500
  "${train[@]}" --config.ddpm.learning_rate=1e-4 --config.ddpm.ema_decay=0.998  # end with a lower learning rate
done
