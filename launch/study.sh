#!/usr/bin/env bash
# Run the study of docs/study.md with several seeds: refiners and plain DDPMs of the same size and training.
#   launch/study.sh [WORKDIR [SEED...]]    by default runs/study and seeds 0 1 2
# On two cores with AVX-512, a training takes ten minutes. A seed with its scores takes two hours, and the ablations take
# one more. Run it again to continue after a stop. The tables are in WORKDIR/tables.md.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh avatars
workdir=${1:-runs/study}
seeds=("${@:2}")
((${#seeds[@]})) || seeds=(0 1 2)
vaedm() { .venv/bin/python -m vaedm_jax.main "$@"; }

# All models: 50,000 faces, a VAE of 0.4 M parameters, a U-Net of 1.2 M parameters, 128,000 images of training.
same=(
  --config.data.avatars=50000 --config.data.held_out=0.1 --config.data.archive="$workdir/avatars.npz"
  --config.vae.steps=6000 --config.ddpm.steps=4000
)
eps=(--config.ddpm.prediction=eps --config.ddpm.t_sampling=uniform)  # as in the paper

train() {  # NAME VARIANT [SETTING...]
  vaedm --mode=train --config="configs/avatars_small.py:$2" --workdir="$workdir/models/$1-$seed" --config.seed="$seed" \
    "${same[@]}" "${@:3}"
}
score() {  # FOLDER RUNS STARTS SAMPLERS STEPS [SETTING...]
  vaedm --mode=evaluate --workdir="$workdir/$1-$seed" --config.eval.runs="$2" --config.eval.starts="$3" \
    --config.eval.samplers="$4" --config.eval.steps="$5" --config.eval.n=1700 --config.sample.seed="$seed" "${@:6}"
}
# NAME...: print the run directories of these models, separated by commas.
runs() { local names=("${@/#/$workdir/models/}"); names=("${names[@]/%/-$seed}"); (IFS=,; echo "${names[*]}"); }

for seed in "${seeds[@]}"; do
  train uncond-residual uncond
  train form1-residual form1
  first=$workdir/models/form1-residual-$seed prior=$workdir/prior-$seed/prior.npz
  vae=(--config.vae.checkpoint="$first") fitted=(--config.sample.prior="$prior")  # all refiners of a seed share one VAE
  [ -f "$prior" ] || vaedm --mode=prior --workdir="$workdir/prior-$seed" --config.sample.weights="$first" \
    --config.prior.kinds=full --config.prior.components='(16,64,256)'
  train uncond-eps uncond "${eps[@]}"
  train form1-eps form1 "${vae[@]}" "${eps[@]}"
  train form2-eps form2 "${vae[@]}"
  refiners=$(runs form1-residual form1-eps form2-eps) plain=$(runs uncond-residual uncond-eps)

  score plain "$plain" noise unipc2 2,5,10,20,25,40,50,100
  score noise "$refiners" noise unipc2,vae 2,5,10,25,50,100 "${fitted[@]}"
  score warm "$refiners" warm0 unipc2 2,5,10,25,50 "${fitted[@]}"
  score normal "$refiners" noise unipc2,vae 5,10,25
  score plain "$plain" noise ddpm 10,20,25,50,100
  score noise "$refiners" noise ddpm 10,25,50 "${fitted[@]}"
done

# Ablations: change one setting of form1-residual at a time, with the first seed.
seed=${seeds[0]}
vae=(--config.vae.checkpoint="$workdir/models/form1-residual-$seed")
fitted=(--config.sample.prior="$workdir/prior-$seed/prior.npz")
train form1-v form1 "${vae[@]}" --config.ddpm.prediction=v --config.ddpm.t_sampling=uniform
train form1-uniform form1 "${vae[@]}" --config.ddpm.t_sampling=uniform
train form1-minsnr form1 "${vae[@]}" --config.ddpm.weighting=min_snr
train form1-noised form1 "${vae[@]}" --config.ddpm.cond_noise=100
ablated=$(runs form1-v form1-uniform form1-minsnr form1-noised)
score ablated "$ablated" noise unipc2 5,10,25 "${fitted[@]}"
score ablated "$ablated" noise ddpm 25 "${fitted[@]}"
score unfitted "$ablated" noise unipc2 10

.venv/bin/python launch/study.py "$workdir"
