#!/usr/bin/env bash
# Score a test set with vLLM in one command: export the adapter's model, serve it, ask it, stop the server. It pays for large
# test sets only (docs/serving.md).
#   VLLM=../tlrec-peers/vllm bash shell/score_with_vllm.sh GPU ADAPTER TEST [arguments of score_served.py]
#   VLLM=../tlrec-peers/vllm bash shell/score_with_vllm.sh 0 instruction_model/movie/alpaca_stage123_instrument rec_data/movie/test.json
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}"                       # folder of data, adapters and base model
BASE_MODEL="${BASE_MODEL:-$ROOT_PATH/base_model/llama-7b/}" # the base that the adapter was tuned on
VLLM="${VLLM:-}"                                            # environment with vLLM 0.26 or newer; benchmarks/peers.sh makes one
EXPORT="${EXPORT:-}"                                        # folder of the merged model (default: ADAPTER, with _merged behind it)
OUTPUT_DIR="${OUTPUT_DIR:-}"                                # folder of metrics.json and predictions.jsonl (default: ADAPTER)
WAIT="${WAIT:-1800}"                                        # seconds at most until the server answers

source "$repository/shell/launch.sh"
[ $# -ge 3 ] || fail "usage: VLLM=FOLDER bash shell/score_with_vllm.sh GPU ADAPTER TEST [arguments of score_served.py]"
gpu="$1" adapter="${2%/}" test="$3"
shift 3
use_gpu "$gpu"
[ "$PROCESSES" -eq 1 ] || fail "GPU '$gpu': give one GPU, or cpu"
refuse_flags "--model_folder EXPORT" "--test_data_path TEST" "--output_dir OUTPUT_DIR" -- "$@"
need_base_model
need adapter "$adapter/adapter_config.json" "ADAPTER is the folder of a tuned adapter"
need "test data" "$test" "TEST is a record file"
[ -x "$VLLM/bin/python" ] || fail "VLLM '$VLLM': name an environment with vLLM; bash benchmarks/peers.sh vllm makes ../tlrec-peers/vllm"
export_dir="${EXPORT:-${adapter}_merged}" log="${EXPORT:-${adapter}_merged}.log"

# 1. The merged model, in the number type that the adapter was tuned in
"$PYTHON" "$repository/base_model/export_model.py" --base_model "$BASE_MODEL" --lora_weights "$adapter" \
  --output_dir "$export_dir" --device "$DEVICE" --overwrite
dtype="$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["dtype"])' "$export_dir/run.json")"

# 2. vLLM's server, for this machine alone; it is stopped however this script ends
port="$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export OPENAI_BASE_URL="http://127.0.0.1:$port/v1" NO_PROXY="127.0.0.1${NO_PROXY:+,$NO_PROXY}"
export no_proxy="$NO_PROXY"
unset OPENAI_API_KEY
server_variables=(-u PYTORCH_ALLOC_CONF -u PYTHONPATH HF_HUB_OFFLINE=1) # those two are for our own processes
if [ "$DEVICE" = cpu ]; then # as vLLM's manual asks for
  server_variables+=("VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2}")
  [ ! -e "$VLLM/lib/libiomp5.so" ] || server_variables+=("LD_PRELOAD=$VLLM/lib/libiomp5.so")
fi
env "${server_variables[@]}" "$VLLM/bin/python" -m vllm.entrypoints.openai.api_server --model "$export_dir" \
  --host 127.0.0.1 --port "$port" --dtype "$dtype" --generation-config vllm --enable-prefix-caching > "$log" 2>&1 &
server=$!
stop_server() {
  kill -TERM "$server" 2>/dev/null || return 0
  for _ in {1..300}; do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "$server" 2>/dev/null || true
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "waiting for vLLM's server ($log)"
answers() {
  "$PYTHON" -c 'import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1] + "/models", timeout=5)' "$OPENAI_BASE_URL" 2>/dev/null
}
SECONDS=0
until answers; do
  kill -0 "$server" 2>/dev/null || fail "vLLM's server stopped: $(tail -n 1 "$log") (all of it: $log)"
  [ "$SECONDS" -lt "$WAIT" ] || fail "vLLM's server does not answer after $WAIT seconds ($log); give it longer with WAIT"
  sleep 1
done

# 3. P(Yes) of every row by its log-probabilities, and the metrics
"$PYTHON" "$repository/base_model/score_served.py" --model_folder "$export_dir" --test_data_path "$test" \
  --output_dir "${OUTPUT_DIR:-$adapter}" "$@"
