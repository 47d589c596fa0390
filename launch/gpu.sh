#!/usr/bin/env bash
# shellcheck disable=SC2329 # functions are called by their names, in $what and $pass
#SBATCH --job-name=vaedm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
usage="\
Trains on GPUs (or a CPU), and starts again what died by other means than its own: see docs/launch.md.
  launch/gpu.sh --config=FILE --workdir=DIR                    one machine: one process drives all its GPUs
  launch/gpu.sh --hosts=A,B --config=FILE --workdir=DIR        several, by ssh: one process on each
  sbatch --nodes=2 --gpus-per-node=4 --time=24:00:00 launch/gpu.sh --config=FILE --workdir=DIR
                                                               Slurm: one process on each node; from the checkout
Options, all others go to vaedm_jax.main:
  --hosts=A,B,...   machines that see this checkout and DIR at the same paths; the first must be reached by all
  --processes=N     N processes on this machine's CPU, to try several out
  --port=PORT       where the processes meet (default 12355)
  --python=PATH     a Python that has the package (default .venv/bin/python, made by launch/env.sh where it is missing)
  --dry-run         print the commands, and run none"
set -euo pipefail
home=$(dirname "$0")/..
if [ ! -f "$home/launch/restart.sh" ]; then home=${SLURM_SUBMIT_DIR:-.}; fi # Slurm runs a copy of this file
cd "$home"
[ -f launch/restart.sh ] || { echo "gpu.sh: submit it from the checkout: there is no launch/restart.sh here" >&2; exit 2; }
. launch/restart.sh

hosts=() processes='' port=12355 python='' arguments=()
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --hosts=*)
      IFS=, read -r -a hosts <<<"$value"
      [ -n "$value" ] || fail "--hosts= names no machine; leave it out for this one"
      ;;
    --processes=*) processes=$value ;;
    --port=*) port=$value ;;
    --python=*) python=$value ;;
    --dry-run) dry=yes ;;
    -h | --help) echo "$usage"; exit 0 ;;
    --hosts | --processes | --port | --python) fail "$argument needs its value behind a '=': $argument=..." ;;
    --distributed*) fail "$argument: the launcher says that itself; give --hosts=A,B or --processes=N" ;;
    *) arguments+=("$argument") ;;
  esac
done
[ "${#arguments[@]}" -gt 0 ] || fail "give --config=FILE --workdir=DIR, as to vaedm_jax.main (--help says more)"
[[ ${processes:-1} =~ ^[1-9][0-9]{0,2}$ ]] || fail "--processes=$processes: it must be a number from 1 to 999"
[[ $port =~ ^[1-9][0-9]{0,4}$ ]] && ((port < 65536)) || fail "--port=$port: it must be a number from 1 to 65535"
if [ -n "$processes" ] && [ "${#hosts[@]}" -gt 0 ]; then fail "--hosts has one process on each; leave --processes out"; fi

if [ -z "$python" ]; then
  python=$PWD/.venv/bin/python
  extra=()
  if command -v nvidia-smi >/dev/null; then extra=(cuda); fi
  if [ -n "$dry" ]; then
    [ -x "$python" ] || echo launch/env.sh "${extra[@]}"
  elif [ ! -x "$python" ]; then
    launch/env.sh "${extra[@]}"
  fi
fi
[ -n "$dry" ] || command -v "$python" >/dev/null || fail "--python=$python: there is no such program"

train() { # the command of a process, and where it meets the others
  command=("$python" -u -m vaedm_jax.main "${arguments[@]}" ${1:+"--distributed=$1"})
}

here() { # K: a process on this machine
  if ((${processes:-1} == 1)); then train; else
    train "$1/$processes@localhost:$port"
    command=(env JAX_PLATFORMS=cpu "${command[@]}")
  fi
  run "${command[@]}"
}

there() { # K: the process on a host; it outlives the connection, and is found again
  local status try
  train "$1/${#hosts[@]}@${hosts[0]#*@}:$port"
  for ((try = 0; try < RESTART_LIMIT; try++)); do
    status=0
    on "${hosts[$1]}" "$(words launch/detached.sh run "${command[@]}")" || status=$?
    if ((status != 255)) || [ -n "$asked" ]; then break; fi # 255: ssh itself failed
    sleep "$RESTART_PAUSE"
  done
  return "$status"
}

on() { # HOST COMMAND
  run ssh -o BatchMode=yes -o ServerAliveInterval=30 "$1" "cd ${PWD@Q} && $2"
}

stop_there() { # what a signal to the launcher does
  local host
  for host in "${hosts[@]}"; do on "$host" "launch/detached.sh stop" </dev/null & done
}

slurm() { # all tasks; each node has one, which would see the first GPU only if this did not say more
  train auto
  local gpus=${SLURM_GPUS_ON_NODE:-}
  if [[ $gpus =~ ^[0-9]+$ ]] && ((gpus > 1)); then gpus=$(seq -s, 0 $((gpus - 1))); else gpus=''; fi
  run srun --kill-on-bad-exit=1 ${gpus:+--export="ALL,JAX_LOCAL_DEVICE_IDS=$gpus"} "${command[@]}"
}

if [ "${#hosts[@]}" -gt 0 ]; then
  pass=stop_there n=${#hosts[@]} what=there
elif [ -z "$processes" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  n=1 what=slurm
else
  n=${processes:-1} what=here
fi
if [ -n "$dry" ]; then
  for ((k = 0; k < n; k++)); do $what "$k"; done
  exit 0
fi

status=0
restart "$n" $what || status=$?
if [ $what = slurm ]; then
  if [ "$asked" = USR1 ] && ((status == 143)); then
    say "the time of this job is over; it is queued again and will continue"
    scontrol requeue "$SLURM_JOB_ID"
  elif [ "$asked" = TERM ]; then
    # A preempted job is queued again by Slurm only if it is there until Slurm ends it.
    sleep 600
  fi
fi
exit "$status"
