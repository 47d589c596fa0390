#!/usr/bin/env bash
# Run the study of docs/study.md: refiners and plain DDPMs of the same size and training, with several seeds.
#   launch/study.sh [WORKDIR [PART...]]    by default runs/study and the parts 0 1 2 ablations; a number is a seed
# Run it again to continue after a stop. The tables are in WORKDIR/tables.md.
# On two cores with AVX-512, a training takes ten minutes, a seed with its scores takes four hours, and the ablations take
# two hours. For a GPU, name the larger networks of the weights in the package, and run many commands side by side:
#   CONFIG=configs/avatars.py JOBS=12 launch/study.sh
# PYTHON=/path/to/python launch/study.sh uses that Python. Without PYTHON, launch/env.sh makes .venv.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ]; then
  launch/env.sh avatars
  PYTHON=.venv/bin/python
fi
workdir=${1:-runs/study} jobs=${JOBS:-1} config=${CONFIG:-configs/avatars_small.py}
parts=("${@:2}")
((${#parts[@]})) || parts=(0 1 2 ablations)

same=(--config.data.avatars=50000 --config.data.held_out=0.1 --config.data.archive="$workdir/avatars.npz" --config.xla.deterministic=True)
if [ "$config" = configs/avatars_small.py ]; then
  same+=(--config.vae.steps=6000 --config.ddpm.steps=4000) brief=(--config.ddpm.steps=2000)
else
  brief=(--config.ddpm.steps=1000 --config.ddpm.warmup=100)
fi
eps=(--config.ddpm.prediction=eps --config.ddpm.t_sampling=uniform)  # as in the paper
tuned=(  # consistency tuning (docs/few_steps.md)
  --config.ddpm.objective=consistency --config.ddpm.t_mean=-0.4 --config.ddpm.t_deviation=2
  --config.ddpm.steps=4000 --config.ddpm.doubling=500 --config.ddpm.learning_rate=5e-4
)
# Side by side, no command takes the whole memory of the GPU, or starts a thread for each core.
[ "$jobs" = 1 ] || export XLA_PYTHON_CLIENT_PREALLOCATE=false OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2

# At most `jobs` commands run at a time: each takes a line from the pipe `slots`, and puts one back.
exec {slots}<> <(:)
for ((i = 0; i < jobs; i++)); do echo >&"$slots"; done
vaedm() {  # NAME ARGUMENT...: run a command; NAME begins the lines that it prints
  local status=0
  read -ru "$slots"
  "$PYTHON" -m vaedm_jax.main "${@:2}" 2>&1 | sed -u "s/^/$1: /" || status=$?
  echo >&"$slots"
  return $status
}
# start COMMAND...: run a function in the background. finish: wait for all of them; fail if one failed.
pids=()
start() { { pids=(); "$@"; } & pids+=($!); }
finish() {
  local pid status=0
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  pids=()
  return $status
}
trap 'trap - TERM; kill 0' INT TERM

model() { echo "$workdir/models/$1-$seed"; }
train() {  # NAME VARIANT [SETTING...]
  vaedm "$1-$seed" --mode=train --config="$config:$2" --workdir="$(model "$1")" --config.seed="$seed" "${same[@]}" "${@:3}"
}
refiner() {  # NAME [SETTING...]: the first word of NAME is the variant; all refiners of a seed share one VAE
  train "$1" "${1%%-*}" --stage=ddpm --config.vae.checkpoint="$(model vae)" "${@:2}"
}
score() {  # NAME STARTS SAMPLERS STEPS [SETTING...]
  vaedm "$1-$seed" --mode=evaluate --workdir="$workdir/scores/$1-$seed" --config.eval.runs="$(model "$1")" \
    --config.eval.starts="$2" --config.eval.samplers="$3" --config.eval.steps="$4" --config.eval.n=1700 \
    --config.sample.batch_size=850 --config.sample.seed="$seed" --config.xla.deterministic=True "${@:5}"
}
# Draw z from a fitted prior, by default that of the seed, and not from N(0, I).
fitted() { score "$@" --config.sample.prior="${prior:-$(model vae)/prior.npz}"; }

plain() {  # KIND [SETTING...]: a plain DDPM
  train "uncond-$1" uncond "${@:2}"
  [ "$1" != residual ] || start tuned_plain
  score "uncond-$1" noise unipc2 1,2,3,4,5,10,20,25,40,50,100,200
  score "uncond-$1" noise ddpm 10,20,25,50,100,200
  finish
}
tuned_plain() {
  train uncond-consistency uncond "${tuned[@]}" --config.ddpm.init="$(model uncond-residual)"
  score uncond-consistency noise consistency 1,2,3,4,5 --config.sample.spacing=open
}
refined() {  # NAME [SETTING...]
  refiner "$@"
  [ "$1" != form1-residual ] || start tuned_refined
  fitted "$1" noise unipc2,vae 1,2,3,4,5,10,25,50,100
  fitted "$1" warm0 unipc2 1,2,3,4,5,10,25,50
  fitted "$1" noise ddpm 10,25,50,100
  score "$1" noise unipc2,vae 5,10,25
  finish
}
tuned_refined() {
  refiner form1-consistency "${tuned[@]}" --config.ddpm.init="$(model form1-residual)"
  fitted form1-consistency noise,warm0 consistency 1,2,3,4,5 --config.sample.spacing=open
}
all_of_seed() {
  start plain residual
  start plain eps "${eps[@]}"
  train vae form1 --stage=vae
  [ -f "$(model vae)/prior.npz" ] || vaedm "prior-$seed" --mode=prior --workdir="$(model vae)" \
    --config.prior.kinds=full --config.prior.components='(16,64,256)'
  start refined form1-residual
  start refined form1-eps "${eps[@]}"
  start refined form2-eps
  finish
  for kind in residual eps; do start score "uncond-$kind" noise ddpm 1000; done
  finish
}
short() {  # NAME [SETTING...]: a short training; NAME is VARIANT-short_KIND, and refiners use the VAE of `avatars`
  train "$1" "${1%%-*}" --stage=ddpm "${brief[@]}" "${@:2}"
}
ablated() {  # KIND [SETTING...]: a refiner
  local name=form1-short_$1
  short "$name" --config.vae.checkpoint=avatars "${@:2}"
  fitted "$name" noise unipc2 5,10,25
  fitted "$name" noise ddpm 25
  fitted "$name" warm0 unipc2 5
  score "$name" noise unipc2 10
}
compared() {  # KIND [SETTING...]: a refiner and a plain DDPM
  ablated "$@"
  short "uncond-short_$1" "${@:2}"
  score "uncond-short_$1" noise unipc2 10,20,50
  score "uncond-short_$1" noise ddpm 50
}
ablations() {  # first as in avatars_small.py, then with one thing changed
  local prior=avatars uniform=--config.ddpm.t_sampling=uniform
  start compared residual
  start compared eps "${eps[@]}"
  start ablated v "$uniform" --config.ddpm.prediction=v
  start ablated uniform "$uniform"
  start ablated minsnr "$uniform" --config.ddpm.weighting=min_snr
  start ablated noised --config.ddpm.cond_noise=100
  start ablated constant --config.ddpm.decay=constant
  finish
}

# The faces are drawn before commands run side by side, each of which would draw them too.
"$PYTHON" -c 'import sys; from vaedm_jax.data import avatars; avatars.load(50000, 32, 0.1, sys.argv[1])' "$workdir/avatars.npz"
for seed in "${parts[@]}"; do
  if [ "$seed" = ablations ]; then seed=0 start ablations; else start all_of_seed; fi
  [ "$jobs" != 1 ] || finish
done
finish
"$PYTHON" launch/study.py "$workdir"
