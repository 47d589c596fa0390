#!/usr/bin/env bash
# Makes .venv from the hash-locked files of launch/lock/, and does nothing where it is up to date.
#   launch/env.sh              CPU
#   launch/env.sh cuda         with an extra of setup.py: avatars, cuda, tpu, explore
#   launch/env.sh plan         with libtpu, which compiles for a TPU where none is; the same as tpu
#   launch/env.sh oldest       .venv-oldest instead, with the oldest versions that setup.py allows
#   launch/env.sh newest       .venv-newest instead, with today's newest ones, not locked
# PYTHON=python3.12 launch/env.sh picks the interpreter; the last two take the newest that they find, up to 3.13.
[ "${BASH_SOURCE[0]}" = "$0" ] || { echo "run launch/env.sh, then: source .venv/bin/activate" >&2; return 2; }
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

fail() { echo "env.sh: $1" >&2; exit 2; }

newest_python() {  # on the PATH, under pyenv, or that uv knows
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
  fail "no Python 3.11 to 3.13 found on the PATH, under pyenv or by uv; name one: PYTHON=/path/to/python $0"
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
    fail "no extra '$extra'; there are: $(cd launch/lock && ls | sed 's/\.txt$//' | grep -vE '^(base|oldest)$' | xargs) plan, and oldest and newest by themselves"
  locks+=("launch/lock/$extra.txt")
done

# Extras stay once they were asked for: a later plain call does not take them away.
stamp=$venv/locked
if [ "$#" -eq 0 ] && [ -f "$stamp" ]; then
  mapfile -t locks < <(grep -o 'launch/lock/[a-z0-9_-]*\.txt' "$stamp" | sort -u)
fi
if [ "$venv" = .venv-newest ]; then
  want=$(date +%F; sha256sum setup.py)  # once a day
else
  want=$(sha256sum "${locks[@]}" setup.py 2>/dev/null) || fail "a lock file is missing; get the checkout anew"
fi
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

if ! "$venv/bin/python" -c '' 2>/dev/null; then
  python=${PYTHON:-python3} advice="install Python 3.11 to 3.13, or name one: PYTHON=/path/to/python $0"
  command -v "$python" >/dev/null || fail "no $python found: $advice"
  # A shim of pyenv, say, is found and does not run where its version is not installed.
  said=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1) ||
    fail "$python does not run ($(grep -m 1 . <<<"$said" || echo "no reason given")): $advice"
  [[ $said =~ ^[0-9]+\.[0-9]+$ ]] || fail "$python is no Python: $advice"
  [ "$(printf '%s\n' 3.11 "$said" | sort -V | head -n 1)" = 3.11 ] || fail "$python is Python $said, which is too old: $advice"
  "$python" -m venv "$venv" ||
    fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"
fi
echo "env.sh: installing into $venv (once; about a minute) ..."
requirements=(--require-hashes --no-deps)
for lock in "${locks[@]}"; do requirements+=(-r "$lock"); done
if [ "$venv" = .venv-newest ]; then requirements=(--upgrade --upgrade-strategy eager --editable '.[test]'); fi
"$venv"/bin/python -m pip install --quiet --disable-pip-version-check "${requirements[@]}"
# The package itself, in place: no copy, so an edit is live.
echo "$PWD" > "$("$venv"/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vaedm_jax.pth"
echo "$want" > "$stamp"
