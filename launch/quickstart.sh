#!/usr/bin/env bash
# The main job, start to end, within a quarter of an hour on two cores: trains both stages for some minutes on drawn
# faces, samples from what that gave, scores it, and samples from weights that were trained for longer.
#   launch/quickstart.sh    all of it lies in runs/quickstart then; report.html shows it
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
echo "3. Sample from what these minutes gave: 50 steps from pure noise, then 25 from the VAE's noised image."
vaedm --mode=sample "${fitted[@]}"
vaedm --mode=sample "${fitted[@]}" --config.sample.steps=25 --config.sample.start=warm --config.sample.t_start=0
echo "4. Score them against the training images, beside what the VAE generates by itself."
vaedm --mode=evaluate "${fitted[@]}" --config.eval.samplers=vae,ddpm --config.eval.steps=25 --config.eval.starts=noise,warm0
echo "5. Sample from the weights that come with the package, in ten steps from pure noise."
vaedm --mode=sample --config.sample.weights=avatars
echo "See runs/quickstart/report.html and the pictures in runs/quickstart/samples."
