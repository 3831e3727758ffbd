#!/usr/bin/env bash
# Chain-of-thought data of the source domains: cot_data/SOURCE/stage123.json for each, and cot_data/stage123.json, from which
# the launchers tune, of all SOURCES together. The same command again continues where it stopped.
#   OPENAI_API_KEY=... bash shell/generate_cot_data.sh [arguments of generate_data.py]
#   bash shell/generate_cot_data.sh --dry_run --price_in 30 --price_out 60        # shows the cost; sends no request
#   bash shell/generate_cot_data.sh --teacher neighbours        # answers from the sources' own ratings, without a key
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}"             # folder of the data
SOURCES="${SOURCES:-netflix amazon-book}"         # source domains
BASE_MODEL="${BASE_MODEL:-$ROOT_PATH/base_model/llama-7b/}" # its tokenizer finds the records that are too long
CUTOFF_LEN="${CUTOFF_LEN:-512}"                   # for the tuner's --cutoff_len

source "$repository/shell/launch.sh"

# 1. Check that everything the run needs exists, before the first paid call
dry_run=""
for argument in "$@"; do
  case "$argument" in
    --dry_run | --help | -h) dry_run=yes ;;
    neighbours | --teacher=neighbours) OPENAI_API_KEY="${OPENAI_API_KEY:-none needed}" ;;
  esac
done
[ -n "${OPENAI_API_KEY:-}" ] || [ -n "$dry_run" ] || fail "OPENAI_API_KEY is not set; export it, or give --dry_run to see the cost"
for source_domain in $SOURCES; do
  need "source data" "$ROOT_PATH/instruction_data/$source_domain/train.json" "instruction_data/README.md tells how to make it"
done

# 2. Three chat stages for every source domain
for source_domain in $SOURCES; do
  echo "== $source_domain"
  "$PYTHON" "$repository/cot_data/generate_data.py" --root_path "$ROOT_PATH" --data_name "$source_domain" "$@"
done
[ -z "$dry_run" ] || exit 0

# 3. Make instruction records from the hits
echo "== stage123.json"
tokenizer=()
[ ! -e "$BASE_MODEL" ] || tokenizer=(--base_model "$BASE_MODEL")
# shellcheck disable=SC2086
"$PYTHON" "$repository/cot_data/preprocess_data.py" --root_path "$ROOT_PATH" --data_name $SOURCES \
  --cutoff_len "$CUTOFF_LEN" ${tokenizer[@]+"${tokenizer[@]}"}
