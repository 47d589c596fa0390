#!/usr/bin/env bash
usage="\
Trains on a Cloud TPU: one machine (v2-8, v5litepod-8) or a pod slice (v4-32). Needs gcloud, logged in; see docs/launch.md.
  launch/tpu_vm.sh train NAME --zone=Z --type=T --bucket=B --config=FILE   all of it; goes on where it was left
  launch/tpu_vm.sh create NAME --zone=Z --type=T --bucket=B                only ask for the TPU, and set it up
  launch/tpu_vm.sh stop NAME --zone=Z          save and stop the training; the TPU stays
  launch/tpu_vm.sh fetch NAME --bucket=B       copy the run, gs://B/runs/NAME, to runs/NAME here
  launch/tpu_vm.sh status NAME --zone=Z        what is there
  launch/tpu_vm.sh delete NAME --zone=Z        save, stop, and delete the TPU; the bucket stays
Options:
  --zone=ZONE       such as us-central1-b
  --type=TYPE       accelerator type: v2-8, v3-8, v4-32, v5litepod-8, v5p-8, v6e-8, ...
  --bucket=BUCKET   Cloud Storage bucket with a hierarchical namespace, in the region of the zone
  --spot            a cheaper TPU that can be preempted; train asks for another then, and the training continues
  --runtime=VERSION software of the TPU (default: that of its type)
  --delete          train: delete the TPU when the training has ended; the bucket stays
  --dry-run         print the commands, and run none
To train go all --config.NAME=VALUE and --stage=STAGE too; the folder --config.data.path=/mnt/bucket/DIR is gs://BUCKET/DIR."
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
    -*) fail "$argument: there is no such option; --help lists them (train runs vaedm_jax.main in mode train)" ;;
    *) if [ -z "$verb" ]; then verb=$argument; elif [ -z "$name" ]; then name=$argument; else
      fail "'$argument' is not understood; launch/tpu_vm.sh VERB NAME --OPTION=VALUE ..."
    fi ;;
  esac
done
needs() { # OPTIONS that must have been given
  local option
  for option in "$@"; do [ -n "${!option}" ] || fail "$verb needs --$option=${option^^} (--help says more)"; done
}
case $verb in
  train | create) needs zone type bucket ;;
  stop | status | delete) needs zone ;;
  fetch) needs bucket ;;
  *) fail "'$verb': there is train, create, stop, fetch, status, delete (--help says more)" ;;
esac
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  fail "$verb NAME: '$name' must be a name of small letters, digits and dashes"
if [ "$verb" = train ]; then
  config=''
  for argument in "${arguments[@]}"; do case $argument in --config=*) config=${argument#*=} ;; esac; done
  [ -n "$config" ] || fail "train needs --config=FILE, such as configs/cifar10.py"
  [ -f "${config%%:*}" ] || fail "--config=$config: there is no file ${config%%:*} in this checkout, which is what is copied"
elif [ "${#arguments[@]}" -gt 0 ]; then
  fail "${arguments[0]} belongs to train"
fi
# https://cloud.google.com/tpu/docs/runtimes
case $runtime$type in
  v[234]-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) [ -z "$type" ] || [ -n "$runtime" ] || fail "--type=$type: no runtime is known for it; give --runtime=VERSION too" ;;
esac
[ -n "$dry" ] || command -v gcloud >/dev/null || fail "gcloud is missing: https://cloud.google.com/sdk/docs/install"

workdir=/mnt/bucket/runs/$name
scratch=$(mktemp -d)
there='' # whether there is, or may be, something that is billed
remind() {
  rm -rf "$scratch"
  if [ -z "$there" ] || [ -n "$dry" ]; then return; fi
  say "the TPU $name in $zone is there, or asked for. It is billed by the second from when it is granted until it is
  deleted (https://cloud.google.com/tpu/pricing):  launch/tpu_vm.sh delete $name --zone=$zone"
}
trap remind EXIT
pass=true # there is nothing yet that a signal should be passed to

queued() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}" --quiet; }
on_all() { run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --quiet --command="$1"; }
state() { # of the request; nothing where there is none
  run gcloud compute tpus queued-resources list --zone="$zone" --filter="name ~ /$name\$" --format="value(state.state)"
}

check_bucket() { # orbax ends a checkpoint by the rename of a folder, which only such a bucket does at one go
  local found
  found=$(run gcloud storage buckets describe "gs://$bucket" --raw --format="value(hierarchicalNamespace.enabled)") || found=no
  if [ -n "$dry" ]; then echo "$found"; return; fi
  [ "${found,,}" = true ] || fail "gs://$bucket is not there, or has no hierarchical namespace. To make one:  gcloud \
storage buckets create gs://BUCKET --location=${zone%-*} --uniform-bucket-level-access --enable-hierarchical-namespace"
}

ensure() { # wait until the TPU is there; ask for it, or for another where it was preempted
  local now before=''
  while [ -z "$asked" ]; do
    now=$(state) || return 1
    if [ -n "$dry" ]; then echo "$now"; now=''; fi
    case $now in
      ACTIVE) return 0 ;;
      FAILED) say "the request for $name failed; see 'status', 'delete' it, and ask for another"; return 1 ;;
      SUSPENDED)
        say "$name was preempted; it is asked for again"
        queued delete --force || return 1
        ;;
      '')
        queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}" || return 1
        if [ -n "$dry" ]; then return 0; fi
        ;;
    esac
    if [ "$now" != "$before" ]; then say "$name: ${now:-asked for}"; fi
    before=$now
    sleep "${TPU_POLL:-20}"
  done
  return 1
}

files() { # of this checkout, but for those that git ignores
  local file
  {
    git ls-files --cached --others --exclude-standard 2>/dev/null ||
      find . -type f -not -path './.*' -not -path './runs/*' -not -path '*/__pycache__/*'
  } | sort | while read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}
copy() { # this checkout, without what is made in it, to all machines that do not have it as it is now
  local archive=$scratch/vaedm_jax.tgz list=$scratch/files sum=CHECKSUM
  files >"$list"
  run tar -czf "$archive" --files-from="$list" || return 1
  if [ -z "$dry" ]; then sum=$(tr '\n' '\0' <"$list" | xargs -0 cksum | cksum | tr ' ' -); fi
  if on_all "grep -qx $sum vaedm_jax/.copied" && [ -z "$dry" ]; then return 0; fi
  stop || return 1 # a training would go on with half of the old files; it continues with the new ones
  run gcloud compute tpus tpu-vm scp "$archive" "$name:vaedm_jax.tgz" --zone="$zone" --worker=all --quiet || return 1
  on_all "mkdir -p vaedm_jax && tar -xzf vaedm_jax.tgz -C vaedm_jax && echo $sum >vaedm_jax/.copied"
}

prepare() { ensure && copy && on_all "vaedm_jax/launch/tpu_setup.sh $bucket"; }

train() { # one try. gcloud's own failures have the statuses 1 and 2 too, so those of the training come as 101 and 102
  local status=0 command
  command=$(words launch/detached.sh run .venv/bin/python -u -m vaedm_jax.main "--workdir=$workdir" --mode=train \
    --distributed=auto "${arguments[@]}")
  [ -n "$dry" ] || prepare || return 75
  touch "$scratch/training"
  on_all "cd vaedm_jax && { $command; s=\$?; exit \$((s == 1 || s == 2 ? s + 100 : s)); }" || status=$?
  rm -f "$scratch/training"
  case $status in 101 | 102) return $((status - 100)) ;; 1 | 2) return 75 ;; *) return "$status" ;; esac
}

stop() { on_all "! test -f vaedm_jax/.copied || vaedm_jax/launch/detached.sh stop"; }
pass_on() { # a signal: first to the training, over there; then to what runs here
  if [ -f "$scratch/training" ]; then
    rm "$scratch/training"
    stop </dev/null &
  else
    signal_jobs TERM
  fi
}
remove() {
  stop || say "no training could be stopped on $name"
  queued delete --force
}

case $verb in
  create | train)
    check_bucket
    there=yes
    if ! prepare; then
      say "$name could not be made ready"
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
