#!/usr/bin/env bash
# Make .venv and install requirements.txt into it; does nothing when that is done already. Leaves PYTHON set when sourced.
#   bash shell/setup.sh
# An environment of your own is used as it is: PYTHON=/path/to/python bash shell/...
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "${PYTHON:-}" ]; then
  PYTHON="$repository/.venv/bin/python"
  if ! cmp -s "$repository/requirements.txt" "$repository/.venv/installed-requirements.txt"; then
    system_python="$(command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)"
    "$system_python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
      echo "error: TLRec needs Python 3.11 to 3.13, found $("$system_python" --version)" >&2
      exit 2
    }
    echo "== setting up .venv with $("$system_python" --version)"
    [ -x "$PYTHON" ] || "$system_python" -m venv "$repository/.venv"
    "$PYTHON" -m pip install --quiet --requirement "$repository/requirements.txt"
    cp "$repository/requirements.txt" "$repository/.venv/installed-requirements.txt"
  fi
fi
export PYTHON
