#!/usr/bin/env bash
# Prepare a machine of a TPU: mount gs://BUCKET at /mnt/bucket and make .venv. Skip what is already there.
#   launch/tpu_setup.sh BUCKET    launch/tpu_vm.sh runs this on each machine
set -euo pipefail
cd "$(dirname "$0")/.."
bucket=$1 mount=/mnt/bucket

# https://cloud.google.com/storage/docs/cloud-storage-fuse/install
if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
  sudo apt-get -qq -o DPkg::Lock::Timeout=300 install gcsfuse
fi
if ! mountpoint -q "$mount"; then
  sudo mkdir -p "$mount"
  sudo chown "$(id -u)" "$mount"
  # Do not cache metadata: every machine must see at once what another has written.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$bucket" "$mount"
fi

# The images of TPU VMs have Python 3.10, which is too old.
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON=$(python3 -m uv python find --no-project 3.12)
  export PYTHON
fi
launch/env.sh tpu
