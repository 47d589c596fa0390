#!/usr/bin/env bash
# Show the whole method within 15 minutes on two cores. Train both stages on drawn faces for some minutes, sample from them,
# and score the samples. Then sample from the weights in the package, which were trained for longer.
#   launch/quickstart.sh    everything is written to runs/quickstart; open report.html there
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
vaedm() { .venv/bin/python -m vaedm_jax.main --workdir=runs/quickstart "$@"; }
fitted=(--config.sample.prior=runs/quickstart/prior.npz)

echo "1. Train the VAE, then the refiner on top of it."
vaedm --config=configs/avatars_small.py --mode=train --config.log.every=25
echo "2. Fit a prior to the z of the training images."
vaedm --mode=prior --config.prior.kinds=full --config.prior.components=16
echo "3. Sample from the model just trained: 50 steps from pure noise, then 25 steps from noised x̂."
vaedm --mode=sample "${fitted[@]}"
vaedm --mode=sample "${fitted[@]}" --config.sample.steps=25 --config.sample.start=warm --config.sample.t_start=0
echo "4. Compare samples of the refiner and of the VAE alone with the training images."
vaedm --mode=evaluate "${fitted[@]}" --config.eval.samplers=vae,ddpm --config.eval.steps=25 --config.eval.starts=noise,warm0
echo "5. Sample from the weights in the package, in ten steps from pure noise."
vaedm --mode=sample --config.sample.weights=avatars
echo "See runs/quickstart/report.html and the pictures in runs/quickstart/samples."
