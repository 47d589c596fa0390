# shellcheck shell=bash
# The scripts in this folder source this file. If the first argument is --help, print the first comment of the script and
# exit.
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
