#!/usr/bin/env bash
# Make .venv from the hash-locked files of launch/lock/. If .venv is up to date, do nothing.
#   launch/env.sh              for the CPU
#   launch/env.sh cuda         with an extra of setup.py: avatars, cuda, tpu or explore
#   launch/env.sh plan         with libtpu, which compiles for TPUs on a machine without one; the same as tpu
#   launch/env.sh oldest       make .venv-oldest, with the oldest versions that setup.py allows
#   launch/env.sh newest       make .venv-newest, with today's newest versions, which are not locked
# PYTHON=python3.12 launch/env.sh uses that interpreter. By default, .venv uses python3. The last two use the newest
# Python from 3.11 to 3.13 that is found.
[ "${BASH_SOURCE[0]}" = "$0" ] || { echo "do not source launch/env.sh: run it, then run: source .venv/bin/activate" >&2; return 2; }
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

fail() { echo "env.sh: $1" >&2; exit 2; }

newest_python() {  # print the newest supported Python: on the PATH, under pyenv, or known to uv
  local version python
  for version in 3.13 3.12 3.11; do
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python \
      "$(uv python find "$version" 2>/dev/null)"; do
      if "$python" -c "import ensurepip, sys; sys.exit(sys.version_info[:2] != (${version/./, }))" 2>/dev/null; then
        echo "$python"
        return
      fi
    done
  done
  fail "no Python 3.11 to 3.13 was found on the PATH, under pyenv or by uv; name one: PYTHON=/path/to/python $0"
}

venv=.venv locks=(launch/lock/base.txt)
case ${1:-} in
  oldest | newest)
    venv=.venv-$1 locks=("launch/lock/$1.txt") PYTHON=${PYTHON:-$(newest_python)}
    shift
    ;;
esac
for extra in "$@"; do
  if [ "$extra" = plan ]; then extra=tpu; fi
  [ -f "launch/lock/$extra.txt" ] ||
    fail "there is no extra '$extra'; give some of: $(cd launch/lock && ls | sed 's/\.txt$//' | grep -vE '^(base|oldest)$' | xargs) plan; or give oldest or newest alone"
  locks+=("launch/lock/$extra.txt")
done

# A call without extras keeps the extras of earlier calls.
stamp=$venv/locked
if [ "$#" -eq 0 ] && [ -f "$stamp" ]; then
  mapfile -t locks < <(grep -o 'launch/lock/[a-z0-9_-]*\.txt' "$stamp" | sort -u)
fi
if [ "$venv" = .venv-newest ]; then
  want=$(date +%F; sha256sum setup.py)  # once a day
else
  want=$(sha256sum "${locks[@]}" setup.py 2>/dev/null) || fail "a lock file of launch/lock/ is missing; restore it, or clone the repository again"
fi
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then  # Python also leaves environments that it cannot complete
  python=${PYTHON:-python3} advice="install Python 3.11 to 3.13, or name one: PYTHON=/path/to/python $0"
  command -v "$python" >/dev/null || fail "no $python found: $advice"
  # A shim of pyenv can be on the PATH and still not run, if its version is not installed.
  said=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1) ||
    fail "$python does not run ($(grep -m 1 . <<<"$said" || echo "no reason given")): $advice"
  [[ $said =~ ^[0-9]+\.[0-9]+$ ]] || fail "$python is not a Python interpreter: $advice"
  [ "$(printf '%s\n' 3.11 "$said" | sort -V | head -n 1)" = 3.11 ] || fail "$python is Python $said, which is too old: $advice"
  "$python" -m venv "$venv" ||
    fail "$python cannot make a virtual environment (on Debian and Ubuntu, run: apt install python3-venv)"
fi
echo "env.sh: installing packages into $venv; this takes about a minute ..."
requirements=(--require-hashes --no-deps)
for lock in "${locks[@]}"; do requirements+=(-r "$lock"); done
if [ "$venv" = .venv-newest ]; then requirements=(--upgrade --upgrade-strategy eager --editable '.[test]'); fi
"$venv"/bin/python -m pip install --quiet --disable-pip-version-check "${requirements[@]}"
# Link the checkout instead of copying it, so that edits take effect at once.
echo "$PWD" > "$("$venv"/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vaedm_jax.pth"
printf '#!/bin/sh\nexec "%s/bin/python" -m vaedm_jax.main "$@"\n' "$PWD/$venv" > "$venv/bin/vaedm"
chmod +x "$venv/bin/vaedm"
echo "$want" > "$stamp"
