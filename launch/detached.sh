#!/usr/bin/env bash
# On a machine that a launcher reaches by ssh: a command that outlives the connection. One at a time for each user.
#   launch/detached.sh run COMMAND...   begins it, or finds it where it runs already; shows its output until it ends, and
#                                       returns its status (137 where nobody knows it)
#   launch/detached.sh stop             sends it SIGTERM, and waits until it has ended; after two minutes SIGKILL
#   launch/detached.sh show             the command and the last it said
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "detached.sh: $1" >&2; exit 2; }
state=${VAEDM_STATE:-${TMPDIR:-/tmp}/vaedm-$(id -u)} # not in the checkout, which several machines may share
(umask 077 && mkdir -p "$state")

begin() { # COMMAND...: in a session of its own, which holds the lock
  rm -f "$state/status"
  : >"$state/log"
  printf '%q ' "$@" >"$state/command"
  # shellcheck disable=SC2016 # the other shell expands them
  setsid bash -c 'trap : TERM; state=$1; shift; "$@" & wait $! || true; wait $!; echo $? >"$state/status"' \
    - "$state" "$@" </dev/null >>"$state/log" 2>&1 &
  echo $! >"$state/pid"
}

follow() { # LINES of what it said before
  tail --pid="$(cat "$state/pid")" -n "$1" -f "$state/log" || true
  exit "$(cat "$state/status" 2>/dev/null || echo 137)"
}

exec 9>>"$state/lock"
case "${1:-} $#" in
  "run 1") fail "run WHAT? launch/detached.sh run COMMAND..." ;;
  "run "*)
    shift
    if flock --nonblock 9; then
      begin "$@"
      exec 9>&- # the command has it now
      follow +1
    fi
    [ "$(cat "$state/command")" = "$(printf '%q ' "$@")" ] ||
      fail "another command runs here: $(cat "$state/command"); stop it first"
    follow 20
    ;;
  "stop 1")
    if flock --nonblock 9; then exit 0; fi
    kill -TERM -- "-$(cat "$state/pid")"
    flock --wait "${RESTART_GRACE:-120}" 9 || kill -KILL -- "-$(cat "$state/pid")"
    ;;
  "show 1") tail -n 5 "$state/command" "$state/log" 2>/dev/null || echo "nothing was run here" ;;
  *) fail "'$*' is not understood; launch/detached.sh run COMMAND..., stop or show" ;;
esac
