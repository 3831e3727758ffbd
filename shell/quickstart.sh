#!/usr/bin/env bash
# Runs the whole method on this machine, without a GPU: a few minutes on two CPU cores.
#   bash shell/quickstart.sh
# 1. makes .venv and installs requirements.txt                          (the only step that uses the network)
# 2. makes demo_workspace/: fictional films and books with known ground truth
# 3. chain-of-thought data from a local offline teacher                 (real client, no key, no cost)
# 4. evaluate.py on the untuned model
# 5. shell/zero_shot.sh cpu movie netflix                               (CoT stage, source stage, zero-shot AUC)
# 6. evaluate.py after the CoT stage alone
# 7. shell/few_shot.sh cpu 0 movie, three times                         (16, 64, 256 shots)
# 8. a table and demo_workspace/quickstart.png
# A second run finds everything complete and prints the same table.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ $# -gt 0 ]; then
  [ "$1" = --help ] || [ "$1" = -h ] || { echo "error: $1: quickstart.sh takes no arguments but --help" >&2; exit 2; }
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
  exit 0
fi

export ROOT_PATH="${ROOT_PATH:-$repository/demo_workspace}"
export BASE_MODEL="${BASE_MODEL:-$repository/base_model/pocket-llama}"
export STAGES="${STAGES:-cot source}"

source "$repository/shell/setup.sh"
cd "$repository"

"$PYTHON" -m tlrec.demo.workspace "$ROOT_PATH"

case " $STAGES " in *" cot "*)
  url_file="$(mktemp -d)/url"
  "$PYTHON" -m tlrec.demo.teacher --url_file "$url_file" &
  teacher=$!
  trap "kill $teacher 2>/dev/null" EXIT
  until [ -s "$url_file" ]; do
    kill -0 "$teacher" 2>/dev/null || { echo "error: the offline teacher stopped before it was ready" >&2; exit 1; }
    sleep 0.1
  done
  CUTOFF_LEN=1024 OPENAI_API_KEY=none-needed OPENAI_BASE_URL="$(cat "$url_file")" bash shell/generate_cot_data.sh --model tlrec-offline-teacher
  ;;
esac

evaluate() {
  "$PYTHON" evaluate.py --base_model "$BASE_MODEL" --device cpu --target movie --test_data_path "$ROOT_PATH/rec_data/movie/test.json" \
    --train_data_path "$ROOT_PATH/rec_data/movie/train.json" "$@" >/dev/null
}

# The score before any tuning
evaluate --output_dir "$ROOT_PATH/output_model/movie/base"

# The recipe for small models, with fewer rows to save time, and so many validations that each run has five or more. The
# prompts of the CoT stage are longer than 512 tokens of pocket-llama's small vocabulary.
export RECIPE="${RECIPE:-small}"
few_validation_rows=(--max_val_samples 100)
bash shell/zero_shot.sh cpu movie netflix --max_train_samples "${SOURCE_ROWS:-384}" --eval_steps 4 --cutoff_len 1024 "${few_validation_rows[@]}"
case " $STAGES " in " cot "?*) evaluate --lora_weights "$ROOT_PATH/instruction_model/movie/alpaca_stage123" ;; esac

few_shot() {
  SHOTS="$1" bash shell/few_shot.sh cpu 0 movie --num_epochs "$2" --eval_steps "$3" --learning_rate 1e-3 "${few_validation_rows[@]}"
}
few_shot 16 20 4
few_shot 64 10 8
few_shot 256 5 16

"$PYTHON" -m tlrec.demo.summary "$ROOT_PATH" movie
