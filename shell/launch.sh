#!/usr/bin/env bash
# What the launchers share; source it, do not run it. Sets PYTHON (unless given) and DEVICE, and checks what a run needs.

fail() {
  echo "error: $1" >&2
  exit 2
}

# The project's own environment if shell/setup.sh has made it, else the python on the PATH.
if [ -z "${PYTHON:-}" ]; then
  PYTHON="$repository/.venv/bin/python"
  [ -x "$PYTHON" ] || PYTHON="$(command -v python3 || true)"
fi
command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: no such program; bash shell/setup.sh makes one"

# need WHAT PATH HOW: stop unless PATH exists, saying what is missing, where it was looked for, and what makes it.
need() {
  [ -e "$2" ] || fail "no $1 at $2; $3"
}

# use_gpu GPU: `cpu`, or the number of a GPU as nvidia-smi shows it.
use_gpu() {
  case "$1" in
    cpu) DEVICE=cpu ;;
    *[!0-9,]* | "" | ,* | *,) fail "GPU '$1': give cpu, or the number of a GPU such as 0" ;;
    *,*) fail "GPU '$1': several GPUs at once are not supported yet; give one" ;;
    *) DEVICE=cuda; export CUDA_VISIBLE_DEVICES="$1" ;;
  esac
}

# adapter_name STAGES: the folder name of the published layout, alpaca_stage123_instrument for "cot source".
adapter_name() {
  local name=alpaca stage
  for stage in $1; do
    case "$stage" in
      cot) name="${name}_stage123" ;;
      source) name="${name}_instrument" ;;
      *) fail "STAGES '$1': stages are cot and source" ;;
    esac
  done
  echo "$name"
}
