#!/usr/bin/env bash
# Run a command that outlives the ssh connection of a launcher. Each user can run one at a time on a machine.
#   launch/detached.sh run COMMAND...   start the command; if it already runs, find it. Show its output until it ends, and
#                                       return its status (137 if the status is not known)
#   launch/detached.sh stop             send SIGTERM and wait for the end; after two minutes send SIGKILL
#   launch/detached.sh show             show the command and its last lines of output
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "detached.sh: $1" >&2; exit 2; }
state=${VAEDM_STATE:-${TMPDIR:-/tmp}/vaedm-$(id -u)} # not in the checkout, because several machines may share it
(umask 077 && mkdir -p "$state")

begin() { # COMMAND...: start it in its own process session, which holds the lock
  rm -f "$state/status"
  : >"$state/log"
  printf '%q ' "$@" >"$state/command"
  # shellcheck disable=SC2016 # the inner shell expands the variables
  setsid bash -c 'trap : TERM; state=$1; shift; "$@" & wait $! || true; wait $!; echo $? >"$state/status"' \
    - "$state" "$@" </dev/null >>"$state/log" 2>&1 &
  echo $! >"$state/pid"
}

follow() { # LINES: show the output from these lines on, until the command ends
  tail --pid="$(cat "$state/pid")" -n "$1" -f "$state/log" || true
  exit "$(cat "$state/status" 2>/dev/null || echo 137)"
}

exec 9>>"$state/lock"
case "${1:-} $#" in
  "run 1") fail "run needs a command: launch/detached.sh run COMMAND..." ;;
  "run "*)
    shift
    if flock --nonblock 9; then
      begin "$@"
      exec 9>&- # the command holds the lock now
      follow +1
    fi
    [ "$(cat "$state/command")" = "$(printf '%q ' "$@")" ] ||
      fail "another command runs on this machine: $(cat "$state/command"); first run: launch/detached.sh stop"
    follow 20
    ;;
  "stop 1")
    if flock --nonblock 9; then exit 0; fi
    kill -TERM -- "-$(cat "$state/pid")"
    flock --wait "${RESTART_GRACE:-120}" 9 || kill -KILL -- "-$(cat "$state/pid")"
    ;;
  "show 1") tail -n 5 "$state/command" "$state/log" 2>/dev/null || echo "no command was run on this machine" ;;
  *) fail "'$*' is not a valid command; use run COMMAND..., stop or show" ;;
esac
