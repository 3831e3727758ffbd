#!/usr/bin/env bash
# Check on a GPU that tuning, scoring and ranking work there: a few minutes, on pocket-llama and a random model of 7B shape.
#   bash shell/gpu_check.sh [GPU] [--output_dir FOLDER] [--pretend]
#   bash shell/gpu_check.sh 0                     # a number or UUID of nvidia-smi -L
#   bash shell/gpu_check.sh 0,1                   # also two processes, FSDP and their evaluation
#   bash shell/gpu_check.sh 0 --pretend           # without a GPU: the program itself, on a pretended one
# Prints a table of pass and fail, writes gpu_check.json, and ends with status 1 if anything failed.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

source "$repository/shell/launch.sh"
gpu=0
case "${1:-}" in "" | --*) ;; *) gpu="$1"; shift ;; esac
use_gpu "$gpu"
[ "$DEVICE" = cuda ] || fail "GPU '$gpu': give a GPU, such as 0"
exec "$PYTHON" "$repository/benchmarks/gpu_check.py" "$@"
