#!/usr/bin/env bash
# shellcheck disable=SC2329 # the functions are called through $what and $pass
#SBATCH --job-name=vaedm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
usage="\
Train on GPUs or on a CPU. If a process dies, start it again (docs/launch.md).
  launch/gpu.sh --config=FILE --workdir=DIR                    this machine: one process for all its GPUs
  launch/gpu.sh --hosts=A,B --config=FILE --workdir=DIR        several machines, by ssh: one process on each
  sbatch --nodes=2 --gpus-per-node=4 --time=24:00:00 launch/gpu.sh --config=FILE --workdir=DIR
                                                               Slurm: one process on each node; submit it from the checkout
Options (all others are passed to vaedm_jax.main):
  --hosts=A,B,...   machines that have this checkout and DIR at the same paths; all must be able to reach the first
  --processes=N     run N processes on this machine's CPU, to try training with several processes
  --port=PORT       the port at which the first process listens (default: 12355)
  --python=PATH     a Python that has the package (default: .venv/bin/python; if it is missing, launch/env.sh makes it)
  --dry-run         print the commands without running them"
set -euo pipefail
home=$(dirname "$0")/..
if [ ! -f "$home/launch/restart.sh" ]; then home=${SLURM_SUBMIT_DIR:-.}; fi # Slurm runs a copy of this file, outside of the checkout
cd "$home"
[ -f launch/restart.sh ] || { echo "gpu.sh: there is no launch/restart.sh in this folder; submit the job from the checkout" >&2; exit 2; }
. launch/restart.sh

hosts=() processes='' port=12355 python='' arguments=()
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --hosts=*)
      IFS=, read -r -a hosts <<<"$value"
      [ -n "$value" ] || fail "--hosts= names no machine; to train on this machine only, leave it out"
      ;;
    --processes=*) processes=$value ;;
    --port=*) port=$value ;;
    --python=*) python=$value ;;
    --dry-run) dry=yes ;;
    -h | --help) echo "$usage"; exit 0 ;;
    --hosts | --processes | --port | --python) fail "$argument needs its value after '=': $argument=VALUE" ;;
    --distributed*) fail "$argument: the launcher sets this flag; give --hosts=A,B or --processes=N instead" ;;
    *) arguments+=("$argument") ;;
  esac
done
[ "${#arguments[@]}" -gt 0 ] || fail "give --config=FILE --workdir=DIR, as for vaedm_jax.main (see --help)"
[[ ${processes:-1} =~ ^[1-9][0-9]{0,2}$ ]] || fail "--processes=$processes: it must be a number from 1 to 999"
[[ $port =~ ^[1-9][0-9]{0,4}$ ]] && ((port < 65536)) || fail "--port=$port: it must be a number from 1 to 65535"
if [ -n "$processes" ] && [ "${#hosts[@]}" -gt 0 ]; then fail "--hosts starts one process on each host; leave --processes out"; fi

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

train() { # [K/N@HOST:PORT | auto]: set $command to the command of a process
  command=("$python" -u -m vaedm_jax.main "${arguments[@]}" ${1:+"--distributed=$1"})
}

here() { # K: run process K on this machine
  if ((${processes:-1} == 1)); then train; else
    train "$1/$processes@localhost:$port"
    command=(env JAX_PLATFORMS=cpu "${command[@]}")
  fi
  run "${command[@]}"
}

there() { # K: run process K on its host. It outlives the connection, and a new connection finds it again
  local status try
  train "$1/${#hosts[@]}@${hosts[0]#*@}:$port"
  for ((try = 0; try < RESTART_LIMIT; try++)); do
    status=0
    on "${hosts[$1]}" "$(words launch/detached.sh run "${command[@]}")" || status=$?
    if ((status != 255)) || [ -n "$asked" ]; then break; fi # 255: ssh itself failed, so try again
    sleep "$RESTART_PAUSE"
  done
  return "$status"
}

on() { # HOST COMMAND: run a command in the checkout of a host
  run ssh -o BatchMode=yes -o ServerAliveInterval=30 "$1" "cd ${PWD@Q} && $2"
}

stop_there() { # on a signal to the launcher, stop the process on each host
  local host
  for host in "${hosts[@]}"; do on "$host" "launch/detached.sh stop" </dev/null & done
}

slurm() { # start one task on each node. JAX_LOCAL_DEVICE_IDS gives it all GPUs; without it JAX takes only the first
  train auto
  local gpus=${SLURM_GPUS_ON_NODE:-} all=()
  # The tasks inherit the variable: in --export=NAME=VALUE, a comma would end the value.
  if [[ $gpus =~ ^[0-9]+$ ]] && ((gpus > 1)); then all=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))"); fi
  run "${all[@]}" srun --kill-on-bad-exit=1 --export=ALL "${command[@]}"
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
    say "the time limit of this job is near; it is queued again, and the training will continue"
    scontrol requeue "$SLURM_JOB_ID"
  elif [ "$asked" = TERM ]; then
    # Slurm queues a preempted job again only if the job has not ended by itself. So wait for Slurm to end it.
    sleep 600
  fi
fi
exit "$status"
