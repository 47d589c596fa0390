#!/usr/bin/env bash
# Train the emoji weights of the package again, and write them to vaedm_jax/weights/. This takes hours on two cores.
#   launch/weights.sh [VARIANT]    form1 (emoji.safetensors), uncond or form2 (emoji-VARIANT.safetensors)
# Run it again to continue after a stop. The form1 weights in the package were trained with lower learning rates in the
# refiner's first 4,700 steps: 5e-4, then 1e-4.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
variant=${1:-form1}
vaedm() {
  .venv/bin/python -m vaedm_jax.main --config="configs/emoji.py:$variant" --workdir="runs/$name" --mode=train "$@"
}
case $variant in
  form1) name=emoji same=() ;;
  uncond) name=emoji-uncond same=() ;;
  form2) name=emoji-form2 same=(--config.vae.checkpoint="runs/emoji") ;;  # the VAE of form1
  *) echo "weights.sh: there is no variant '$variant'; use form1, uncond or form2" >&2; exit 2 ;;
esac
final=(--config.ddpm.learning_rate=1e-4 --config.ddpm.ema_decay=0.998)  # end with a lower learning rate

vaedm "${same[@]}" --config.ddpm.steps=11500
vaedm "${same[@]}" "${final[@]}"
.venv/bin/python -c '
import sys
from vaedm_jax import VAEDM
from vaedm_jax.runs.weights import SHIPPED
VAEDM.from_run(sys.argv[1]).save(SHIPPED / sys.argv[2], "float16")' "runs/$name" "$name.safetensors"
