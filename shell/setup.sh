#!/usr/bin/env bash
# Make .venv and install requirements.txt into it; does nothing when that is done already. Leaves PYTHON set when sourced.
#   bash shell/setup.sh
# An environment of your own is used as it is: PYTHON=/path/to/python bash shell/...
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "${PYTHON:-}" ]; then
  PYTHON="$repository/.venv/bin/python"
  if ! cmp -s "$repository/requirements.txt" "$repository/.venv/installed-requirements.txt"; then
    system_python=""
    for candidate in python3 python3.13 python3.12 python3.11; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        system_python="$candidate"
        break
      fi
    done
    [ -n "$system_python" ] || { echo "error: TLRec needs Python 3.11 to 3.13 on the PATH" >&2; exit 2; }
    echo "== setting up .venv with $("$system_python" --version)"
    [ -x "$PYTHON" ] || "$system_python" -m venv "$repository/.venv"
    "$PYTHON" -m pip install --progress-bar on --requirement "$repository/requirements.txt"
    cp "$repository/requirements.txt" "$repository/.venv/installed-requirements.txt"
  fi
fi
export PYTHON
