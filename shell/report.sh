#!/usr/bin/env bash
# Collect every run of a workspace into ROOT_PATH/report: index.html, results.md, results.csv and figures.
#   bash shell/report.sh [arguments of python -m tlrec.report]
#   ROOT_PATH=demo_workspace bash shell/report.sh
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}" # searched for runs, with all its subfolders

source "$repository/shell/launch.sh"
exec "$PYTHON" -m tlrec.report "$ROOT_PATH" "$@"
