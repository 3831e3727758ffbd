#!/usr/bin/env bash
# Few-shot tuning on a target domain from its instruction adapter, and the AUC of each result, in one process.
#   bash shell/few_shot.sh GPU SEED TARGET [arguments of rec_tuning.py]
#   bash shell/few_shot.sh 0 0 movie
#   SEEDS="0 1 2" SHOTS="16 64" bash shell/few_shot.sh cpu 0 movie
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}"                       # folder of data, adapters and base model
BASE_MODEL="${BASE_MODEL:-$ROOT_PATH/base_model/llama-7b/}" # a folder, or a hub name such as meta-llama/Llama-3.1-8B
RECIPE="${RECIPE:-published}"                               # a file of shell/recipes: published, original, small
STAGES="${STAGES:-cot source}"                              # the stages given to zero_shot.sh
SOURCE="${SOURCE:-}"                                        # the source given to it; by default the only one that has an adapter
GENERAL_ADAPTER="${GENERAL_ADAPTER:-}"                      # the general adapter given to it
VALID="${VALID:-target}"                                    # what was given to it; few-shot runs select on the target's rows
INSTRUCTION_ADAPTER="${INSTRUCTION_ADAPTER:-}"              # folder or hub name; by default the one zero_shot.sh made; or none
EXP_NAME="${EXP_NAME:-}"                                    # name of the experiment, as given to zero_shot.sh; names
                                                            # the instruction adapter and output_model/TARGET/EXP_NAME
SHOTS="${SHOTS:-16 64 256}"
SEEDS="${SEEDS:-}"                                          # several seeds, instead of SEED
EVALUATE_ARGS="${EVALUATE_ARGS:-}"                          # also run evaluate.py on each adapter with these arguments,
                                                            # such as "--rank full --max_rank_rows 100"

source "$repository/shell/launch.sh"
[ $# -ge 3 ] || fail "usage: bash shell/few_shot.sh GPU SEED TARGET [arguments of rec_tuning.py], such as 0 0 movie"
gpu="$1" seeds="${SEEDS:-$2}" target="$3"
shift 3
use_gpu "$gpu"
use_recipe "$RECIPE"
STAGES="$(words "$STAGES")"
seeds="$(numbers SEED "$seeds")"
SHOTS="$(numbers SHOTS "$SHOTS" -1)"
refuse_flags "--base_model BASE_MODEL" "--train_data_path ROOT_PATH" "--val_data_path ROOT_PATH" "--test_data_path ROOT_PATH" \
  "--output_dir ROOT_PATH and EXP_NAME" "--resume_from_checkpoint INSTRUCTION_ADAPTER" "--device GPU" "--sample SHOTS" \
  "--seed SEED or SEEDS" "--target TARGET" -- "$@"

# 1. Check that everything the run needs exists
data="$ROOT_PATH/rec_data/$target"
stage_names "$STAGES" >/dev/null
need_base_model
need_target_data "$target"
start=()
case "$INSTRUCTION_ADAPTER" in
  none) name="none$(suffix)" ;;
  "")
    name="${EXP_NAME:-$(instruction_adapter)}"
    start=(--resume_from_checkpoint "$ROOT_PATH/instruction_model/$target/$name")
    need "instruction adapter" "${start[1]}/adapter_config.json" \
      "${EXP_NAME:+EXP_NAME='$EXP_NAME' }STAGES='$STAGES' bash shell/zero_shot.sh $gpu $target ${SOURCE:-SOURCE} makes it (or name another: INSTRUCTION_ADAPTER)"
    ;;
  *)
    start=(--resume_from_checkpoint "$INSTRUCTION_ADAPTER")
    on_the_hub "$INSTRUCTION_ADAPTER" ||
      need "instruction adapter" "$INSTRUCTION_ADAPTER/adapter_config.json" "INSTRUCTION_ADAPTER=none goes without one"
    name="$(named "$INSTRUCTION_ADAPTER")"
    name="${name%"$(suffix)"}$(suffix)"
    ;;
esac
output="$ROOT_PATH/output_model/$target/${EXP_NAME:-$name}"

# A single run gets its <seed>_<shots> folder here; for several, rec_tuning.py makes the folders
adapters=()
for seed in $seeds; do for shots in $SHOTS; do adapters+=("$output/${seed}_$shots"); done; done
[ ${#adapters[@]} -gt 1 ] || output="${adapters[0]}"

# 2. Every seed with every number of shots, each from the instruction adapter; complete runs are skipped. They are scored in
# the same process, as they were tuned, unless the recipe scores in another way.
test=(--test_data_path "$data/test.json")
[ -z "${scoring_flags[*]-}" ] || test=()
run rec_tuning.py \
  --base_model "$BASE_MODEL" --train_data_path "$data/train.json" --val_data_path "$data/valid.json" \
  ${test[@]+"${test[@]}"} ${start[@]+"${start[@]}"} --output_dir "$output" \
  --sample $SHOTS --seed $seeds --device "$DEVICE" --resume --target "$target" ${few_shot_flags[@]+"${few_shot_flags[@]}"} "$@"

# 3. What the runs do not measure themselves: the recipe's own scores, and ranks
checks_only "$@" && exit 0
[ -n "${scoring_flags[*]-}$EVALUATE_ARGS" ] || exit 0
evaluate "$target" --lora_weights "${adapters[@]}" $(trusted "$@") $EVALUATE_ARGS
