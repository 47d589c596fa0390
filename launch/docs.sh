#!/usr/bin/env bash
# Build the documentation as a site in out/site, with a reference of the Python classes. Every warning is an error.
#   launch/docs.sh           build it
#   launch/docs.sh serve     show it at http://127.0.0.1:8000, and build it again after each change
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."

launch/env.sh
if [ "${1:-}" = serve ]; then
  exec .venv/bin/python -m mkdocs serve --strict --config-file launch/site/mkdocs.yml
fi
exec .venv/bin/python -m mkdocs build --strict --config-file launch/site/mkdocs.yml "$@"
