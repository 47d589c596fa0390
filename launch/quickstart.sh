#!/usr/bin/env bash
# The main job, start to end, within a quarter of an hour on two cores: trains both stages for some minutes on small
# pictures of people, samples from what that gave, and samples from weights that were trained for hours.
#   launch/quickstart.sh    all of it lies in runs/quickstart then; report.html shows it
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
vaedm() { .venv/bin/python -m vaedm_jax.main --workdir=runs/quickstart "$@"; }
brief=(
  --config.vae.steps=800 --config.vae.learning_rate=2e-3
  --config.ddpm.steps=600 --config.ddpm.batch_size=16 --config.ddpm.warmup=50
  --config.sample.t_start=250  # so young a refiner cannot begin further out
  --config.log.every=10 --config.log.pictures=150 --config.checkpoint.every=200
)

echo "1. Train the VAE, then the refiner on top of it."
vaedm --config=configs/emoji.py --mode=train "${brief[@]}"
echo "2. Sample from what these minutes gave."
vaedm --mode=sample
echo "3. Sample from the weights that come with the package: 5 steps from the noised VAE's image, 100 from noise."
vaedm --mode=sample --config.sample.weights=emoji
vaedm --mode=sample --config.sample.weights=emoji --config.sample.start=noise --config.sample.sampler=ddpm \
  --config.sample.steps=100
echo "See runs/quickstart/report.html and the pictures in runs/quickstart/samples."
