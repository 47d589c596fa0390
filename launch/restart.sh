# shellcheck shell=bash
# What the launchers share: source it. It runs a training again and again until an end that no other try would change.
#   restart N COMMAND...   runs COMMAND 0 ... COMMAND N-1 (functions too) at one time, and returns the status of the last try
# 0 (done), 1 (it cannot go on), 2 (bad input) and 130 (Ctrl-C) are final, and so is all that follows a signal to the
# launcher. Anything else is a death by other means: the same command continues, after a pause that grows.
: "${RESTART_PAUSE:=10}" # seconds before the second try; doubled after each quick failure, up to five minutes
: "${RESTART_QUICK:=600}" # a try that failed within so many seconds was a quick failure
: "${RESTART_LIMIT:=5}" # give up after so many quick failures in a row
: "${RESTART_GRACE:=120}" # seconds that the other processes have once one has failed; then SIGTERM, and then SIGKILL

asked='' # the signal that asked the launcher to stop; it is passed on as $sent
sent=''
jobs_=() # the processes of this try, each the leader of its group
dry=''
pass=signal_jobs # what passes a signal on; a launcher of processes elsewhere has its own

trap 'on_signal INT INT' INT
trap 'on_signal TERM TERM' TERM
trap 'on_signal USR1 TERM' USR1 # Slurm's warning before the time is over: save as for SIGTERM

fail() { echo "$(basename "$0"): $1" >&2; exit 2; }
say() { echo "$(basename "$0"): $1" >&2; }

words() { # a command as one can paste it
  local word out=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]]; then out+=("$word"); else out+=("${word@Q}"); fi
  done
  echo "${out[*]}"
}

run() { # a command; with --dry-run ($dry), only print it
  if [ -n "$dry" ]; then words "$@"; else "$@"; fi
}

on_signal() { asked=$1 sent=$2; "$pass" "$sent"; }

signal_jobs() {
  local job
  for job in "${jobs_[@]}"; do kill "-$1" -- "-$job" 2>/dev/null || true; done
}

together() { # N COMMAND...: the status is the first that is not 0; those that follow are its consequences
  local n=$1 ended=0 verdict=0 until=0 killed='' k status
  shift
  local ends
  exec {ends}<> <(:) # a pipe, by which each says how it ended
  jobs_=()
  set -m # each in a group of its own, and none ignores Ctrl-C
  for ((k = 0; k < n; k++)); do
    (
      trap 'asked=TERM' INT TERM # for the command; this shell stays to tell its status
      status=0
      "$@" "$k" || status=$?
      echo "$status" >&"$ends"
    ) </dev/null &
    jobs_+=($!)
  done
  set +m
  if [ -n "$asked" ]; then "$pass" "$sent"; fi # it came before there was anything to pass it to
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

restart() {
  local quick=0 began status pause
  while :; do
    began=$SECONDS status=0
    together "$@" || status=$?
    case $status in 0 | 1 | 2 | 130) return "$status" ;; esac
    if [ -z "$asked" ]; then
      if ((SECONDS - began < RESTART_QUICK)); then ((++quick)); else quick=0; fi
      if ((quick >= RESTART_LIMIT)); then
        say "ended with status $status, $quick times in a row within $RESTART_QUICK s; the same command tries again"
        return "$status"
      fi
      pause=$((RESTART_PAUSE << (quick ? quick - 1 : 0)))
      pause=$((pause < 300 ? pause : 300))
      say "ended with status $status; again in $pause s"
      for ((; pause > 0; pause--)); do if [ -z "$asked" ]; then sleep 1; fi; done
    fi
    if [ -n "$asked" ]; then
      if [ "$asked" = INT ]; then return 130; else return 143; fi
    fi
  done
}
