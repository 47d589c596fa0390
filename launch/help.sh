# shellcheck shell=bash
# Sourced by the scripts beside it: where --help is asked for, prints the comment that the script begins with, and ends it.
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
