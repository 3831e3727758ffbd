#!/usr/bin/env bash
# The rows of docs/results.md with a real model: untuned, after the source stage, and with shots in the target, from each
# source and from none, side by side. Hours on a CPU; the same command again continues where it stopped. One source stage
# serves all targets.
#   ROOT_PATH=path/to/records bash shell/real_results.sh GPU
#   TARGETS=movie SOURCES="none netflix" SEEDS="0 1 2" ROOT_PATH=path/to/records bash shell/real_results.sh cpu
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

export ROOT_PATH="${ROOT_PATH:-$repository}"                              # folder of data and adapters
export BASE_MODEL="${BASE_MODEL:-$repository/base_model/smollm2-135m}"
export RECIPE="${RECIPE:-small}"                                          # a file of shell/recipes; names the results
TARGETS="${TARGETS:-movie book}"                                          # folders of rec_data; also movie-by-users
SOURCES="${SOURCES:-none netflix amazon-book}"                            # folders of instruction_data; none: no source stage
TUNED_FOR="${TUNED_FOR:-${TARGETS%% *}}"                                  # keeps the adapters of the source stage, which are
                                                                          # validated on its rows; RECIPE=small selects nothing
SHOTS="${SHOTS:-16 64 256}"
ALL_ROWS="${ALL_ROWS:--1}"                                                # rows of the last column: -1 all; 0 leaves it out
SEEDS="${SEEDS:-0}"
VAL_ROWS="${VAL_ROWS:-200}"                                               # a validation costs as much as 60 rows of tuning

source "$repository/shell/launch.sh"
[ $# -eq 1 ] || fail "usage: bash shell/real_results.sh GPU, such as 0, or cpu"
gpu="$1"
use_gpu "$gpu"
use_recipe "$RECIPE"
export PYTHON SEEDS STAGES=source

# 1. Check that everything the runs need exists
need_base_model "bash base_model/get_smollm2.sh makes one"
for target in $TARGETS $TUNED_FOR; do need_target_data "$target"; done
for source_domain in $SOURCES; do
  [ "$source_domain" = none ] || need_train_data source "$source_domain"
done
base="$(named "$BASE_MODEL")"
[ "$base" != smollm2-135m ] || base=""

for target in $TARGETS; do
  for source_domain in $SOURCES; do
    name="${RECIPE}_from_$source_domain${base:+_$base}"
    echo "==== $target, source: $source_domain"

    # 2. Zero-shot: the base model alone, or after the source stage
    start=none weights=()
    if [ "$source_domain" != none ]; then
      start="$ROOT_PATH/instruction_model/$TUNED_FOR/$name" weights=(--lora_weights "$start")
      if [ "$target" = "$TUNED_FOR" ] || [ ! -e "$start/adapter_config.json" ]; then
        EXP_NAME="$name" bash "$repository/shell/zero_shot.sh" "$gpu" "$TUNED_FOR" "$source_domain" \
          --max_val_samples "$VAL_ROWS" --eval_steps 50
      fi
    fi
    if [ "$source_domain" = none ] || [ "$target" != "$TUNED_FOR" ]; then # else zero_shot.sh has scored it
      evaluate "$target" ${weights[@]+"${weights[@]}"} --output_dir "$ROOT_PATH/output_model/$target/$name"
    fi

    # 3. Shots on top, and all rows of the target in one pass
    export EXP_NAME="$name" INSTRUCTION_ADAPTER="$start"
    SHOTS="$SHOTS" bash "$repository/shell/few_shot.sh" "$gpu" 0 "$target" --max_val_samples "$VAL_ROWS"
    [ "$ALL_ROWS" = 0 ] || SHOTS="$ALL_ROWS" bash "$repository/shell/few_shot.sh" "$gpu" 0 "$target" \
      --max_val_samples "$VAL_ROWS" --num_epochs 1 --eval_steps 50
    unset EXP_NAME INSTRUCTION_ADAPTER
  done
done

# 4. All runs of the workspace side by side
bash "$repository/shell/report.sh"
