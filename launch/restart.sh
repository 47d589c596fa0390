# shellcheck shell=bash
# The launchers source this file. It starts a training again until it ends for good.
#   restart N COMMAND...   run COMMAND 0 to COMMAND N-1 side by side (programs or functions); return the last try's status
# These statuses are final: 0 (done), 1 (the training cannot continue), 2 (bad input) and 130 (Ctrl-C). After a signal to
# the launcher, every status is final. Any other status means that a process died. Then the same command runs again, after
# a pause that grows.
: "${RESTART_PAUSE:=10}" # seconds before the second try. Each quick failure doubles them, up to five minutes
: "${RESTART_QUICK:=600}" # a try that fails within this many seconds is a quick failure
: "${RESTART_LIMIT:=5}" # give up after this many quick failures in a row
: "${RESTART_GRACE:=120}" # after the first failure, seconds until SIGTERM to the other processes. SIGKILL follows later

asked='' # the signal that asked the launcher to stop
sent='' # the signal that the launcher passes on to the processes
jobs_=() # the processes of this try. Each leads its own process group
dry='' # not empty: print the commands without running them
pass=signal_jobs # the function that passes a signal on. Launchers of remote processes set their own

trap 'on_signal INT INT' INT
trap 'on_signal TERM TERM' TERM
trap 'on_signal USR1 TERM' USR1 # Slurm sends USR1 before the time limit: save as for SIGTERM

fail() { echo "$(basename "$0"): $1" >&2; exit 2; }
say() { echo "$(basename "$0"): $1" >&2; }

words() { # COMMAND...: print a command quoted for a shell
  local word out=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]]; then out+=("$word"); else out+=("${word@Q}"); fi
  done
  echo "${out[*]}"
}

run() { # COMMAND...: run a command, or only print it if $dry is set
  if [ -n "$dry" ]; then words "$@"; else "$@"; fi
}

# Note that the launcher was asked to stop, and pass the signal on.
on_signal() { asked=$1 sent=$2; "$pass" "$sent"; }

signal_jobs() { # SIGNAL: send it to all processes of this try
  local job
  for job in "${jobs_[@]}"; do kill "-$1" -- "-$job" 2>/dev/null || true; done
}

together() { # N COMMAND...: make one try. Return the first status that is not 0, since later failures follow from it
  local n=$1 ended=0 verdict=0 until=0 killed='' k status
  shift
  local ends
  exec {ends}<> <(:) # a pipe through which each process reports its status
  jobs_=()
  set -m # give each process its own group, in which it does not ignore Ctrl-C
  for ((k = 0; k < n; k++)); do
    (
      trap 'asked=TERM' INT TERM # the command gets the signal; this shell stays to report its status
      status=0
      "$@" "$k" || status=$?
      echo "$status" >&"$ends"
    ) </dev/null &
    jobs_+=($!)
  done
  set +m
  if [ -n "$asked" ]; then "$pass" "$sent"; fi # the signal came before the processes started
  while ((ended < n)); do
    if read -r -t 1 -u "$ends" status; then
      ((++ended))
      if ((status && !verdict)); then verdict=$status until=$((SECONDS + RESTART_GRACE)); fi
    elif ((until && SECONDS >= until)) && [ -z "$asked" ]; then
      if [ -n "$killed" ]; then
        signal_jobs KILL
        break
      fi
      "$pass" TERM
      killed=yes until=$((SECONDS + 2 * RESTART_GRACE))
    fi
  done
  wait "${jobs_[@]}" || true
  jobs_=()
  exec {ends}>&-
  return "$verdict"
}

restart() { # N COMMAND...: make tries until a final status
  local quick=0 began status pause
  while :; do
    began=$SECONDS status=0
    together "$@" || status=$?
    case $status in 0 | 1 | 2 | 130) return "$status" ;; esac
    if [ -z "$asked" ]; then
      if ((SECONDS - began < RESTART_QUICK)); then ((++quick)); else quick=0; fi
      if ((quick >= RESTART_LIMIT)); then
        say "giving up: the training failed $quick times in a row, each within $RESTART_QUICK s; the last status was $status. To continue, run the same command again"
        return "$status"
      fi
      pause=$((RESTART_PAUSE << (quick ? quick - 1 : 0)))
      pause=$((pause < 300 ? pause : 300))
      say "ended with status $status; starting again in $pause s"
      for ((; pause > 0; pause--)); do if [ -z "$asked" ]; then sleep 1; fi; done
    fi
    if [ -n "$asked" ]; then
      if [ "$asked" = INT ]; then return 130; else return 143; fi
    fi
  done
}
