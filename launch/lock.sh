#!/usr/bin/env bash
# Write the lock files of launch/lock/ with today's newest versions. base.txt has the base and the tests. Each locked extra
# of setup.py has a file that agrees with base.txt. This needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { # NAME ARGUMENT...: write launch/lock/NAME.txt
  local out="launch/lock/$1.txt"
  shift
  rm -f "$out"
  uv pip compile setup.py --extra test "$@" --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet --output-file "$out"
  echo "$out: $(grep -c == "$out") packages"
}

# Gradio does not allow the newest versions of some packages. So the base takes versions that the explorer allows too.
lock explore --extra explore
lock base --constraint launch/lock/explore.txt
for extra in avatars cuda tpu; do
  lock "$extra" --extra "$extra" --constraint launch/lock/base.txt
done
# launch/test.sh --oldest uses the lower bounds of setup.py, which include the versions of Colab's TPU image.
lock oldest --resolution lowest-direct
