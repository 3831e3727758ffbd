#!/usr/bin/env bash
# Runs the whole method on this machine, without a GPU: a few minutes on two CPU cores.
#   bash shell/quickstart.sh                      # pocket-llama
#   bash shell/quickstart.sh --model smollm2      # a real language model; at most half an hour, said beforehand
# 1. makes .venv, installs requirements.txt, fetches smollm2            (the only step that uses the network)
# 2. makes demo_workspace/: fictional films and books with known ground truth (smollm2: demo_workspace_smollm2/)
# 3. chain-of-thought data from a local offline teacher                 (real client, no key, no cost)
# 4. evaluate.py on the untuned model
# 5. shell/zero_shot.sh cpu movie netflix                               (CoT stage, source stage, the AUC after each)
# 6. shell/few_shot.sh cpu 0 movie, three times                         (16, 64, 256 shots)
# 7. a table and demo_workspace/quickstart.png
# A second run finds everything complete and prints the same table.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

mistake() { echo "error: $1" >&2; exit 2; }
model=pocket-llama
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"; exit 0 ;;
    --model) [ $# -ge 2 ] || mistake "--model: give pocket-llama or smollm2"; model="$2"; shift 2 ;;
    *) mistake "$1: quickstart.sh takes --model and --help" ;;
  esac
done

# Rows, epochs and flags of each model, on top of the recipe for small models: fewer rows, to save time. Prompts of the CoT
# stage have up to 850 tokens.
shots=(16 64 256)
case "$model" in
  pocket-llama)
    folder=pocket-llama workspace=demo_workspace sizes=()
    source_rows=384 cot_rows=384
    instruction=(--max_val_samples 100 --eval_steps 4 --cutoff_len 1024)
    epochs=(20 10 5) eval_steps=(4 8 16) # five validations in each run
    few_shot=(--max_val_samples 100 --learning_rate 1e-3 --metric_for_best_model loss) # 100 rows have a surer loss than AUC
    ;;
  smollm2)
    folder=smollm2-135m workspace=demo_workspace_smollm2
    test_rows="${TEST_ROWS:-200}" source_rows=384 cot_rows=64 val_rows=32
    sizes=(--movie_test "$test_rows")
    instruction=(--max_val_samples "$val_rows" --warmup_steps 2 --cutoff_len 1024)
    epochs=(2 2 2) eval_steps=(2 4 10)
    few_shot=(--max_val_samples "$val_rows" --cutoff_len 1024 --warmup_steps 1 --metric_for_best_model loss)
    ;;
  *) mistake "--model $model: give pocket-llama or smollm2" ;;
esac
source_rows="${SOURCE_ROWS:-$source_rows}" cot_rows="${COT_ROWS:-$cot_rows}"
export ROOT_PATH="${ROOT_PATH:-$repository/$workspace}"
export STAGES="${STAGES:-cot source}" RECIPE="${RECIPE:-small}"

source "$repository/shell/setup.sh"
[ "$model" != smollm2 ] || [ -n "${BASE_MODEL:-}" ] || bash "$repository/base_model/get_smollm2.sh"
export BASE_MODEL="${BASE_MODEL:-$repository/base_model/$folder}"

"$PYTHON" -m tlrec.demo.workspace "$ROOT_PATH" ${sizes[@]+"${sizes[@]}"}

case " $STAGES " in *" cot "*)
  url_file="$(mktemp -d)/url"
  "$PYTHON" -m tlrec.demo.teacher --url_file "$url_file" &
  teacher=$!
  trap "kill $teacher 2>/dev/null" EXIT
  until [ -s "$url_file" ]; do
    kill -0 "$teacher" 2>/dev/null || { echo "error: the offline teacher stopped before it was ready" >&2; exit 1; }
    sleep 0.1
  done
  CUTOFF_LEN=1024 OPENAI_API_KEY=none-needed OPENAI_BASE_URL="$(cat "$url_file")" bash "$repository/shell/generate_cot_data.sh" --model tlrec-offline-teacher
  ;;
esac

# How long it will take here: two steps of tuning and a short validation, timed
adapters="$ROOT_PATH/instruction_model/movie"
if [ "$model" = smollm2 ] && ! compgen -G "$adapters/*_instrument/run.json" >/dev/null; then
  trial="$(mktemp -d)"
  source "$repository/shell/recipes/$RECIPE.sh"
  "$PYTHON" "$repository/ins_tuning.py" --base_model "$BASE_MODEL" --train_data_path "$ROOT_PATH/instruction_data/netflix/train.json" \
    --val_data_path "$ROOT_PATH/rec_data/movie/valid.json" --output_dir "$trial/adapter" --device cpu \
    ${source_flags[@]+"${source_flags[@]}"} "${instruction[@]}" --max_train_samples 32 --warmup_steps 0 >/dev/null
  # A CoT record is 3.3 times as long as a preference record; six evaluations, and about ten validations
  "$PYTHON" -m tlrec.demo.forecast "$trial/adapter" --scored_rows $((6 * test_rows + 10 * val_rows)) --loads 8 \
    --tuned_rows $((cot_rows * 10 / 3 + source_rows + 2 * (16 + 64 + 256)))
  rm -r "$trial"
fi

# The score before any tuning
data="$ROOT_PATH/rec_data/movie"
"$PYTHON" "$repository/evaluate.py" --base_model "$BASE_MODEL" --device cpu --target movie --test_data_path "$data/test.json" \
  --train_data_path "$data/train.json" --output_dir "$ROOT_PATH/output_model/movie/base" --resume >/dev/null

# The curriculum, one launcher call for each stage: they learn from different numbers of rows. The workspace has one model and
# one recipe, so the adapters get the published names.
case " $STAGES " in *" cot "*)
  EXP_NAME=alpaca_stage123 STAGES=cot bash "$repository/shell/zero_shot.sh" cpu movie netflix --max_train_samples "$cot_rows" ${instruction[@]+"${instruction[@]}"}
  export GENERAL_ADAPTER="$adapters/alpaca_stage123" EXP_NAME=alpaca_stage123_instrument
  ;;
  *) export EXP_NAME=alpaca_instrument ;;
esac
STAGES=source bash "$repository/shell/zero_shot.sh" cpu movie netflix --max_train_samples "$source_rows" ${instruction[@]+"${instruction[@]}"}
for place in 0 1 2; do
  SHOTS="${shots[place]}" STAGES=source bash "$repository/shell/few_shot.sh" cpu 0 movie "${few_shot[@]}" \
    --num_epochs "${epochs[place]}" --eval_steps "${eval_steps[place]}"
done

"$PYTHON" -m tlrec.demo.summary "$ROOT_PATH" movie
