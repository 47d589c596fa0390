#!/usr/bin/env bash
# Remakes the lock files of launch/lock/ with today's newest versions: one for the base with the
# tests, and one for each extra of setup.py, which agrees with the base. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { # lock NAME ARGUMENT...
  local out="launch/lock/$1.txt"
  shift
  rm -f "$out"
  uv pip compile setup.py --extra test "$@" --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --output-file "$out"
  echo "$out: $(grep -c == "$out") packages"
}

# Gradio is behind with some packages; the base takes what the explorer can have too.
lock explore --extra explore
lock base --constraint launch/lock/explore.txt
for extra in avatars cuda tpu; do
  lock "$extra" --extra "$extra" --constraint launch/lock/base.txt
done
# The lower bounds of setup.py, among them the versions of Colab's TPU image, for launch/test.sh --oldest.
lock oldest --resolution lowest-direct
