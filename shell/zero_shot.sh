#!/usr/bin/env bash
# Curriculum instruction tuning for a target domain, then its zero-shot AUC.
#   bash shell/zero_shot.sh GPU TARGET SOURCE [arguments of ins_tuning.py]
#   bash shell/zero_shot.sh 0 movie netflix
#   STAGES=source bash shell/zero_shot.sh cpu movie netflix --max_train_samples 2000
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}"                       # folder of data, adapters and base model
BASE_MODEL="${BASE_MODEL:-$ROOT_PATH/base_model/llama-7b/}" # a folder, or a hub name such as meta-llama/Llama-3.1-8B
RECIPE="${RECIPE:-published}"                               # a file of shell/recipes: published, original, small
STAGES="${STAGES:-cot source}"                              # also: source, cot, "source cot", "stage1 stage12 cot source",
                                                            # and files of records: "cot path/to/mine.json source"
GENERAL_ADAPTER="${GENERAL_ADAPTER:-}"                      # folder or hub name to start from; none: a fresh LoRA; by default
                                                            # instruction_model/TARGET/alpaca if there is one
EXP_NAME="${EXP_NAME:-}"                                    # names the last adapter's folder, few_shot.sh's start, and begins
                                                            # the names of those before; by default docs/launchers.md
VALID="${VALID:-target}"                                    # select checkpoints on target or on source validation data
EVALUATE_ARGS="${EVALUATE_ARGS:-}"                          # more arguments of evaluate.py, such as "--rank full"

source "$repository/shell/launch.sh"
[ $# -ge 3 ] || fail "usage: bash shell/zero_shot.sh GPU TARGET SOURCE [arguments of ins_tuning.py], such as 0 movie netflix"
gpu="$1" target="$2" source_domain="$3"
shift 3
use_gpu "$gpu"
use_recipe "$RECIPE"
STAGES="$(words "$STAGES")"
refuse_flags "--base_model BASE_MODEL" "--train_data_path ROOT_PATH and STAGES" "--val_data_path ROOT_PATH and VALID" \
  "--output_dir ROOT_PATH and EXP_NAME" "--resume_from_checkpoint GENERAL_ADAPTER" "--device GPU" "--stage STAGES" \
  "--source SOURCE" "--target TARGET" -- "$@"

# 1. Check that everything the run needs exists
case "$VALID" in
  target) valid="$ROOT_PATH/rec_data/$target/valid.json" ;;
  source) valid="$ROOT_PATH/instruction_data/$source_domain/valid.json" ;;
  *) fail "VALID '$VALID': give target or source" ;;
esac
stage_names "$STAGES" >/dev/null
need_base_model
need_general_adapter
need_train_data "$STAGES" "$source_domain"
need "validation data" "$valid" "rec_data/README.md tells how to make it"
need "test data" "$ROOT_PATH/rec_data/$target/test.json" "rec_data/README.md tells how to make it"

# 2. One adapter after another, each starting from the one before
adapters="$ROOT_PATH/instruction_model/$target"
general="${GENERAL_ADAPTER:-$adapters/alpaca}"
if [ -z "$GENERAL_ADAPTER" ] && [ ! -e "$general/adapter_config.json" ]; then
  echo "no general adapter at $general (optional): starting from a fresh LoRA"
  general=none
fi
start=(--resume_from_checkpoint "$general")
[ "$general" != none ] || start=()
done_stages=""
for stage in $STAGES; do
  done_stages="$(words "$done_stages $stage")"
  output="$adapters/$(adapter_name "$done_stages" "$source_domain")"
  if [ -n "$EXP_NAME" ]; then
    output="$adapters/$EXP_NAME"
    [ "$done_stages" = "$STAGES" ] || output="$output$(stage_names "$done_stages")"
  fi
  label="$(stage_label "$stage")" flags=()
  case "$stage" in
    source) flags=(--source "$source_domain" ${source_flags[@]+"${source_flags[@]}"}) ;;
    *) flags=(${cot_flags[@]+"${cot_flags[@]}"}) ;; # instruction records with answers of free text
  esac
  echo "== stage $label: $output"
  run ins_tuning.py \
    --base_model "$BASE_MODEL" --train_data_path "$(train_data "$stage" "$source_domain")" --val_data_path "$valid" \
    --output_dir "$output" ${start[@]+"${start[@]}"} --device "$DEVICE" --resume --stage "$label" --target "$target" \
    ${flags[@]+"${flags[@]}"} "$@"
  start=(--resume_from_checkpoint "$output")
  if checks_only "$@" && [ ! -e "$output/adapter_config.json" ]; then start=(); fi # it is not made yet
done

checks_only "$@" && exit 0

# 3. Zero-shot AUC on the target's test set
echo "== zero-shot: $output"
evaluate "$target" --lora_weights "$output" $(trusted "$@") $EVALUATE_ARGS
