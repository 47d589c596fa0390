#!/usr/bin/env bash
usage="\
Train on a Cloud TPU: one machine (v2-8, v5litepod-8) or a pod slice (v4-32). You must be logged in to gcloud (docs/launch.md).
  launch/tpu_vm.sh train NAME --zone=Z --type=T --bucket=B --config=FILE   request a TPU, set it up and train, or continue
  launch/tpu_vm.sh create NAME --zone=Z --type=T --bucket=B                only request the TPU and set it up
  launch/tpu_vm.sh stop NAME --zone=Z          save and stop the training; keep the TPU
  launch/tpu_vm.sh fetch NAME --bucket=B       copy the run gs://B/runs/NAME to runs/NAME on this machine
  launch/tpu_vm.sh status NAME --zone=Z        show the state of the TPU and the last lines of the training
  launch/tpu_vm.sh delete NAME --zone=Z        save and stop the training, and delete the TPU; keep the bucket
Options:
  --zone=ZONE       zone of the TPU, such as us-central1-b
  --type=TYPE       accelerator type: v2-8, v3-8, v4-32, v5litepod-8, v5p-8, v6e-8, ...
  --bucket=BUCKET   Cloud Storage bucket with a hierarchical namespace, in the region of the zone
  --spot            use a cheaper TPU that can be preempted; after a preemption, train requests another and continues
  --runtime=VERSION software version of the TPU (default: that of its type)
  --delete          with train: delete the TPU when the training has ended; keep the bucket
  --dry-run         print the commands without running them
train also accepts --config.NAME=VALUE and --stage=STAGE. For images in gs://BUCKET/DIR, give --config.data.path=/mnt/bucket/DIR."
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/restart.sh

verb='' name='' zone='' type='' bucket='' runtime='' spot=() delete='' arguments=()
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    -h | --help) echo "$usage"; exit 0 ;;
    --zone=*) zone=$value ;;
    --type=*) type=$value ;;
    --bucket=*) bucket=${value#gs://} ;;
    --runtime=*) runtime=$value ;;
    --spot) spot=(--spot) ;;
    --delete) delete=yes ;;
    --dry-run) dry=yes ;;
    --config=* | --config.* | --noconfig.* | --stage=*) arguments+=("$argument") ;;
    -*) fail "$argument: there is no such option; see --help" ;;
    *) if [ -z "$verb" ]; then verb=$argument; elif [ -z "$name" ]; then name=$argument; else
      fail "unexpected argument '$argument'; write: launch/tpu_vm.sh COMMAND NAME --OPTION=VALUE ..."
    fi ;;
  esac
done
needs() { # OPTION...: refuse the command if one of these options is missing
  local option
  for option in "$@"; do [ -n "${!option}" ] || fail "$verb needs --$option=${option^^} (see --help)"; done
}
case $verb in
  train | create) needs zone type bucket ;;
  stop | status | delete) needs zone ;;
  fetch) needs bucket ;;
  *) fail "'$verb' is not a command; use train, create, stop, fetch, status or delete (see --help)" ;;
esac
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  fail "'$name' is not a valid NAME; use lower-case letters, digits and dashes, and begin with a letter"
if [ "$verb" = train ]; then
  config='' # a file, or the name of one in configs/
  for argument in "${arguments[@]}"; do case $argument in --config=*) config=${argument#*=} ;; esac; done
  [ -n "$config" ] || fail "train needs --config=FILE, such as configs/cifar10.py"
  [ -f "${config%%:*}" ] || [ -f "configs/${config%%:*}.py" ] || fail "--config=$config: there is no file ${config%%:*} in this checkout, which is copied to the TPU"
elif [ "${#arguments[@]}" -gt 0 ]; then
  fail "${arguments[0]}: only train accepts this option"
fi
# https://cloud.google.com/tpu/docs/runtimes
if [ -n "$type" ] && [ -z "$runtime" ]; then
  case $type in
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "--type=$type: no runtime is known for this type; give --runtime=VERSION too" ;;
  esac
fi
[ -n "$dry" ] || command -v gcloud >/dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"

workdir=/mnt/bucket/runs/$name
scratch=$(mktemp -d)
there='' # not empty if a TPU exists, or may exist, which is billed
remind() { # at exit, say that a TPU is left and how to delete it
  rm -rf "$scratch"
  if [ -z "$there" ] || [ -n "$dry" ]; then return; fi
  say "the TPU $name in $zone exists or is requested. It is billed by the second from when it is granted until it is
  deleted (https://cloud.google.com/tpu/pricing). To delete it, run:  launch/tpu_vm.sh delete $name --zone=$zone"
}
trap remind EXIT
pass=true # before the training starts, no process needs the signal

# VERB [FLAG...]: run a gcloud command on the queued resource.
queued() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}" --quiet; }
# COMMAND: run it on all machines of the TPU.
on_all() { run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --quiet --command="$1"; }
state() { # print the state of the request, or nothing if there is no request
  run gcloud compute tpus queued-resources list --zone="$zone" --filter="name ~ /$name\$" --format="value(state.state)"
}

check_bucket() { # Orbax completes a checkpoint by renaming a folder. Only a hierarchical namespace does this in one operation
  local found
  found=$(run gcloud storage buckets describe "gs://$bucket" --raw --format="value(hierarchicalNamespace.enabled)") || found=no
  if [ -n "$dry" ]; then echo "$found"; return; fi
  [ "${found,,}" = true ] || fail "gs://$bucket does not exist, or has no hierarchical namespace. To make such a bucket, run:  gcloud \
storage buckets create gs://BUCKET --location=${zone%-*} --uniform-bucket-level-access --enable-hierarchical-namespace"
}

ensure() { # request the TPU and wait for it. If it was preempted, request another
  local now before=''
  while [ -z "$asked" ]; do
    now=$(state) || return 1
    if [ -n "$dry" ]; then echo "$now"; now=''; fi
    case $now in
      ACTIVE) return 0 ;;
      FAILED) say "the request for $name failed. The command status says why. Run delete, then try again"; return 1 ;;
      SUSPENDED)
        say "$name was preempted; requesting another TPU"
        queued delete --force || return 1
        ;;
      '')
        queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}" || return 1
        if [ -n "$dry" ]; then return 0; fi
        ;;
    esac
    if [ "$now" != "$before" ]; then say "$name: ${now:-requested}"; fi
    before=$now
    sleep "${TPU_POLL:-20}"
  done
  return 1
}

files() { # list the files of this checkout, except those that git ignores
  local file
  {
    git ls-files --cached --others --exclude-standard 2>/dev/null ||
      find . -type f -not -path './.*' -not -path './runs/*' -not -path '*/__pycache__/*'
  } | sort | while read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}
copy() { # copy these files to all machines, unless all have them already
  local archive=$scratch/vaedm_jax.tgz list=$scratch/files sum=CHECKSUM
  files >"$list"
  run tar -czf "$archive" --files-from="$list" || return 1
  if [ -z "$dry" ]; then sum=$(tr '\n' '\0' <"$list" | xargs -0 cksum | cksum | tr ' ' -); fi
  if on_all "grep -qx $sum vaedm_jax/.copied" && [ -z "$dry" ]; then return 0; fi
  stop || return 1 # a running training would mix old and new files; it continues after the copy
  run gcloud compute tpus tpu-vm scp "$archive" "$name:vaedm_jax.tgz" --zone="$zone" --worker=all --quiet || return 1
  on_all "mkdir -p vaedm_jax && tar -xzf vaedm_jax.tgz -C vaedm_jax && echo $sum >vaedm_jax/.copied"
}

prepare() { ensure && copy && on_all "vaedm_jax/launch/tpu_setup.sh $bucket"; }

train() { # make one try. gcloud fails with 1 and 2 too, so 101 and 102 stand for these statuses of the training
  local status=0 command
  command=$(words launch/detached.sh run .venv/bin/python -u -m vaedm_jax.main "--workdir=$workdir" --mode=train \
    --distributed=auto "${arguments[@]}")
  [ -n "$dry" ] || prepare || return 75
  touch "$scratch/training"
  on_all "cd vaedm_jax && { $command; s=\$?; exit \$((s == 1 || s == 2 ? s + 100 : s)); }" || status=$?
  rm -f "$scratch/training"
  case $status in 101 | 102) return $((status - 100)) ;; 1 | 2) return 75 ;; *) return "$status" ;; esac
}

# Stop the training on all machines. It saves first.
stop() { on_all "! test -f vaedm_jax/.copied || vaedm_jax/launch/detached.sh stop"; }
pass_on() { # on the first signal, stop the training on the TPU; on the next, stop the local processes
  if [ -f "$scratch/training" ]; then
    rm "$scratch/training"
    stop </dev/null &
  else
    signal_jobs TERM
  fi
}
remove() { # stop the training and delete the TPU
  stop || say "no training on $name could be stopped; deleting the TPU all the same"
  queued delete --force
}

case $verb in
  create | train)
    check_bucket
    there=yes
    if ! prepare; then
      say "the TPU $name could not be set up"
      case $asked in INT) exit 130 ;; TERM) exit 143 ;; *) exit 1 ;; esac
    fi
    if [ "$verb" = create ]; then exit 0; fi
    status=0
    if [ -n "$dry" ]; then train; else
      pass=pass_on
      restart 1 train || status=$?
      say "the run is in gs://$bucket/runs/$name:  launch/tpu_vm.sh fetch $name --bucket=$bucket"
    fi
    if [ -n "$delete" ] && [ -z "$asked" ]; then remove && there=''; fi
    exit "$status"
    ;;
  stop) there=yes && stop ;;
  status)
    queued describe
    on_all "vaedm_jax/launch/detached.sh show"
    ;;
  fetch)
    run mkdir -p "runs/$name"
    run gcloud storage rsync "gs://$bucket/runs/$name" "runs/$name" --recursive
    ;;
  delete) remove ;;
esac
