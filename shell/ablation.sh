#!/usr/bin/env bash
# What each part of the method is worth: the base model and every curriculum, zero-shot and few-shot, without and with the
# general adapter if there is one, and a report. The same command again continues where it stopped.
#   bash shell/ablation.sh GPU TARGET SOURCE [arguments of both tuners]
#   bash shell/ablation.sh 0 movie netflix
#   CURRICULA="base, source" SHOTS=16 SEEDS=0 bash shell/ablation.sh cpu movie netflix
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

export ROOT_PATH="${ROOT_PATH:-$repository}"                       # folder of data, adapters and base model
export BASE_MODEL="${BASE_MODEL:-$ROOT_PATH/base_model/llama-7b/}" # a folder or a hub name
export RECIPE="${RECIPE:-published}"                               # a file of shell/recipes
CURRICULA="${CURRICULA:-base, cot, source, cot source, stage1 stage12 cot source}" # base, or STAGES of zero_shot.sh
GENERAL_ADAPTER="${GENERAL_ADAPTER:-}"                             # folder or hub name; by default instruction_model/TARGET/alpaca
                                                                   # if there is one; none: run only without it
export SHOTS="${SHOTS:-16 64 256}"
export SEEDS="${SEEDS:-0 1 2}"

source "$repository/shell/launch.sh"
[ $# -ge 3 ] || fail "usage: bash shell/ablation.sh GPU TARGET SOURCE [arguments of both tuners], such as 0 movie netflix"
gpu="$1" target="$2" source_domain="$3"
shift 3
use_gpu "$gpu"
use_recipe "$RECIPE"
export PYTHON SOURCE="$source_domain"
[ -z "${EXP_NAME:-}" ] || fail "EXP_NAME '$EXP_NAME': it names one experiment, but an ablation runs many; unset EXP_NAME"
SHOTS="$(numbers SHOTS "$SHOTS" -1)"
SEEDS="$(numbers SEEDS "$SEEDS")"
refuse_flags "--base_model BASE_MODEL" "--train_data_path ROOT_PATH" "--val_data_path ROOT_PATH" "--test_data_path ROOT_PATH" \
  "--output_dir ROOT_PATH" "--resume_from_checkpoint GENERAL_ADAPTER" "--device GPU" "--stage CURRICULA" "--sample SHOTS" \
  "--seed SEEDS" "--source SOURCE" "--target TARGET" -- "$@"

# 1. Check that everything the runs need exists
need_base_model
need_target_data "$target"
need_general_adapter
IFS=, read -ra listed <<<"$CURRICULA"
curricula=()
for stages in "${listed[@]}"; do
  stages="$(words "$stages")"
  curricula+=("$stages")
  [ "$stages" = base ] && continue
  stage_names "$stages" >/dev/null
  need_train_data "$stages" "$source_domain"
done
alpaca="$ROOT_PATH/instruction_model/$target/alpaca"
[ -n "$GENERAL_ADAPTER" ] || [ ! -e "$alpaca/adapter_config.json" ] || GENERAL_ADAPTER="$alpaca"
generals=("$GENERAL_ADAPTER")
[ -z "$GENERAL_ADAPTER" ] || [ "$GENERAL_ADAPTER" = none ] || generals=(none "$GENERAL_ADAPTER")

# 2. Every curriculum: its adapters and their zero-shot AUC, then few-shot tuning from the last of them
for general in "${generals[@]}"; do
  export GENERAL_ADAPTER="$general"
  for stages in "${curricula[@]}"; do
    echo "==== $stages, general adapter: ${general:-none}"
    if [ "$stages" != base ]; then
      STAGES="$stages" bash "$repository/shell/zero_shot.sh" "$gpu" "$target" "$source_domain" "$@"
      STAGES="$stages" INSTRUCTION_ADAPTER="" bash "$repository/shell/few_shot.sh" "$gpu" 0 "$target" "$@"
      continue
    fi
    adapter=none name="base$(suffix)" weights=()
    case "$general" in "" | none) ;; *) adapter="$general" name="$(named "$general")$(suffix)" weights=(--lora_weights "$general") ;; esac
    evaluate "$target" ${weights[@]+"${weights[@]}"} --output_dir "$ROOT_PATH/output_model/$target/$name" $(trusted "$@")
    EXP_NAME="$name" INSTRUCTION_ADAPTER="$adapter" bash "$repository/shell/few_shot.sh" "$gpu" 0 "$target" "$@"
  done
done

# 3. All runs of the workspace side by side
bash "$repository/shell/report.sh"
