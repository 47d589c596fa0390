#!/usr/bin/env bash
# The main job, start to end, within a quarter of an hour on two cores: trains both stages for some minutes on drawn
# faces, samples from what that gave, scores it, and samples from weights that were trained for longer.
#   launch/quickstart.sh    all of it lies in runs/quickstart then; report.html shows it
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
vaedm() { .venv/bin/python -m vaedm_jax.main --workdir=runs/quickstart "$@"; }
brief=(
  # A VAE of 0.4 M and a U-Net of 1.2 M parameters, and batches as they learn most in a minute.
  --config.vae.channels="32:16,16:32,8:64,4:128,1:16"
  --config.vae.dec_block="1x1,1u4,1t4,4x1,4u2,4t8,8x2,8u2,8t16,16x1,16u2,16t32"
  --config.vae.steps=2400 --config.vae.batch_size=16 --config.vae.learning_rate=2e-3
  --config.vae.kl_weight=0.3 --config.vae.kl_warmup=600
  --config.ddpm.channels=32 --config.ddpm.scale_shift=True
  --config.ddpm.steps=1800 --config.ddpm.learning_rate=2e-3 --config.ddpm.warmup=100
  --config.log.every=25 --config.log.pictures=600 --config.checkpoint.every=600
)
fitted=(--config.sample.prior=runs/quickstart/prior.npz)

echo "1. Train the VAE, then the refiner on top of it."
vaedm --config=configs/avatars.py --mode=train "${brief[@]}"
echo "2. Fit a prior to the z of the training images."
vaedm --mode=prior --config.prior.kinds=full --config.prior.components=16
echo "3. Sample from what these minutes gave: 50 steps from pure noise, then 25 from the VAE's noised image."
vaedm --mode=sample "${fitted[@]}" --config.sample.sampler=ddpm --config.sample.steps=50
vaedm --mode=sample "${fitted[@]}" --config.sample.sampler=ddpm --config.sample.steps=25 \
  --config.sample.start=warm --config.sample.t_start=0
echo "4. Score them against the training images, beside what the VAE generates by itself."
vaedm --mode=evaluate "${fitted[@]}" --config.eval.samplers=vae,ddpm --config.eval.steps=25 --config.eval.starts=noise,warm0
echo "5. Sample from the weights that come with the package, in ten steps from pure noise."
vaedm --mode=sample --config.sample.weights=avatars
echo "See runs/quickstart/report.html and the pictures in runs/quickstart/samples."
