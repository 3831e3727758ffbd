#!/usr/bin/env bash
# Make .venv and install requirements.txt into it, with all dependencies at the versions in shell/constraints.txt, and this
# checkout's tlrec; does nothing if that is already done. When sourced, it sets PYTHON and defines install_requirements for
# further files.
#   bash shell/setup.sh
#   TORCH_INDEX=ADDRESS bash shell/setup.sh     # a PyTorch build for another CUDA version: that build's package index, as
#                                               # pytorch.org/get-started shows it for your driver (ends in cu126, cpu, ...)
# Your own environment is used unchanged: PYTHON=/path/to/python bash shell/...
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
environment="$repository/.venv"

# install_requirements FILE: into .venv, unless FILE, the constraints and pyproject.toml are unchanged since the last time.
install_requirements() {
  [ -z "$own_environment" ] || return 0
  local constraints="$repository/shell/constraints.txt" installed="$environment/installed-${1//\//-}" index=()
  local files=("$repository/$1" "$constraints" "$repository/pyproject.toml")
  ! cat "${files[@]}" | cmp -s - "$installed" || return 0
  if [ -e "$environment/torch-index" ]; then # another build brings other versions of the CUDA packages
    index=(--extra-index-url "$(cat "$environment/torch-index")")
    grep -vE '^(nvidia|cuda|triton)' "$constraints" > "$environment/constraints.txt"
    constraints="$environment/constraints.txt"
  fi
  echo "== installing $1 into .venv, at the versions of shell/constraints.txt"
  "$PYTHON" -m pip install --progress-bar on --requirement "$repository/$1" --constraint "$constraints" ${index[@]+"${index[@]}"}
  # Built by the setuptools that torch brings along, so nothing more is fetched
  "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --editable "$repository"
  cat "${files[@]}" > "$installed"
}

own_environment="${PYTHON:-}"
if [ -z "$own_environment" ]; then
  PYTHON="$environment/bin/python"
  if [ ! -x "$PYTHON" ]; then
    system_python=""
    for candidate in python3 python3.13 python3.12 python3.11; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        system_python="$candidate"
        break
      fi
    done
    [ -n "$system_python" ] || { echo "error: TLRec needs Python 3.11 to 3.13 on the PATH" >&2; exit 2; }
    echo "== making .venv with $("$system_python" --version)"
    "$system_python" -m venv "$environment"
    [ -z "${TORCH_INDEX:-}" ] || echo "$TORCH_INDEX" > "$environment/torch-index"
  elif [ -n "${TORCH_INDEX:-}" ] && ! echo "$TORCH_INDEX" | cmp -s - "$environment/torch-index"; then
    echo "error: TORCH_INDEX: .venv has a PyTorch from elsewhere; remove $environment and run this again" >&2
    exit 2
  fi
fi
export PYTHON PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" # this checkout's tlrec, in an environment of one's own too
install_requirements requirements.txt
