#!/usr/bin/env bash
# What the launchers share; source it, do not run it. Sets PYTHON (unless given) and DEVICE, and checks what a run needs.

fail() {
  echo "error: $1" >&2
  exit 2
}

# The project's own environment if shell/setup.sh has made it, else python3 from the PATH.
if [ -z "${PYTHON:-}" ]; then
  PYTHON="$repository/.venv/bin/python"
  [ -x "$PYTHON" ] || PYTHON="$(command -v python3 || true)"
fi
command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: no such program; bash shell/setup.sh makes one"

# use_recipe NAME: the flags of shell/recipes/NAME.sh, as instruction_flags and few_shot_flags.
use_recipe() {
  [[ "$1" =~ ^[a-z0-9_-]+$ ]] && [ -e "$repository/shell/recipes/$1.sh" ] ||
    fail "RECIPE '$1': give one of $(cd "$repository/shell/recipes" && echo *.sh | sed 's/\.sh//g')"
  source "$repository/shell/recipes/$1.sh"
}

# words TEXT: its words with one space between them, so that extra spaces do not change folder names.
words() {
  local word all=""
  for word in $1; do all="$all $word"; done
  echo "${all# }"
}

# numbers NAME TEXT [LEAST]: the whole numbers in TEXT, in order, without repeats; stop if there are none, or other words.
numbers() {
  local word all=""
  for word in $2; do
    [[ "$word" =~ ^-?[0-9]+$ ]] && [ "$word" -ge "${3:-0}" ] || fail "$1 '$2': give whole numbers of ${3:-0} or more, such as '16 64'"
    case " $all " in *" $word "*) ;; *) all="$all $word" ;; esac
  done
  [ -n "$all" ] || fail "$1 '$2': give at least one number"
  echo "${all# }"
}

# refuse_flags "FLAG INSTEAD" ... -- "$@": stop if the arguments hold a flag that the launcher sets itself.
refuse_flags() {
  local own=() flag argument
  while [ "$1" != -- ]; do own+=("$1"); shift; done
  shift
  for argument in "$@"; do
    for flag in "${own[@]}"; do
      [ "${argument%%=*}" != "${flag%% *}" ] || fail "${flag%% *}: this launcher sets it; give ${flag#* } instead"
    done
  done
}

# need WHAT PATH HOW: stop unless PATH exists; the error says what is missing, where it should be, and how to make it.
need() {
  [ -e "$2" ] || fail "no $1 at $2; $3"
}

# use_gpu GPU: `cpu`, the number of a GPU as nvidia-smi shows it, several such as 0,1,2,3, or cpu:2, two processes on the
# CPU. Sets DEVICE and PROCESSES.
use_gpu() {
  PROCESSES=1
  case "$1" in
    cpu) DEVICE=cpu ;;
    cpu:[1-9]*) DEVICE=cpu PROCESSES="${1#cpu:}" ;;
    *[!0-9,]* | "" | ,* | *, | *,,*) fail "GPU '$1': give cpu, the number of a GPU such as 0, or several such as 0,1,2,3" ;;
    *) DEVICE=cuda; export CUDA_VISIBLE_DEVICES="$1"; PROCESSES="$(tr , '\n' <<<"$1" | wc -l)" ;;
  esac
  case "$PROCESSES" in *[!0-9]*) fail "GPU '$1': give a number of processes, such as cpu:2" ;; esac
}

# run SCRIPT [arguments]: one process, or one for each GPU, started by accelerate. ACCELERATE_ARGS replaces the arguments of
# `accelerate launch`, which are one machine and DDP: give a file of shell/accelerate, or several machines.
run() {
  local script="$repository/$1"
  local how="${ACCELERATE_ARGS:---multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no}"
  shift
  if [ "$PROCESSES" -eq 1 ] && [ -z "${ACCELERATE_ARGS:-}" ]; then
    "$PYTHON" "$script" "$@"
    return
  fi
  "$PYTHON" "$script" "$@" --check_only # in one process, so that an error is printed once
  if [ "$DEVICE" = cpu ]; then          # accelerate needs MPI for several processes on the CPU; torch does not
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$PYTHON" -m torch.distributed.run --standalone \
      --nproc_per_node "$PROCESSES" "$script" "$@"
  else
    "$PYTHON" -m accelerate.commands.launch --num_processes "$PROCESSES" $how "$script" "$@"
  fi
}

# adapter_name STAGES: the folder name of the published layout, alpaca_stage123_instrument for "cot source". It begins
# with the name of GENERAL_ADAPTER, or with "fresh" if that is none.
adapter_name() {
  local name=alpaca stage
  [ -n "$1" ] || fail "STAGES is empty: give at least one of cot and source"
  [ -z "$GENERAL_ADAPTER" ] || name="$(basename "$GENERAL_ADAPTER")"
  [ "$GENERAL_ADAPTER" != none ] || name=fresh
  for stage in $1; do
    case "$stage" in
      stage1 | stage12) name="${name}_$stage" ;;
      cot) name="${name}_stage123" ;;
      source) name="${name}_instrument" ;;
      *) fail "STAGES '$1': stages are cot and source, and stage1 and stage12 of the staged CoT" ;;
    esac
  done
  echo "$name"
}

# train_data STAGE: the training file of the stage.
train_data() {
  case "$1" in
    stage1 | stage12) echo "$ROOT_PATH/cot_data/$1.json" ;;
    cot) echo "$ROOT_PATH/cot_data/stage123.json" ;;
    source) echo "$ROOT_PATH/instruction_data/$source_domain/train.json" ;;
  esac
}

# need_train_data STAGES: stop unless the training files of all stages exist.
need_train_data() {
  local stage
  for stage in $1; do
    case "$stage" in
      stage1 | stage12) need "staged CoT data" "$(train_data "$stage")" "python cot_data/preprocess_data.py --curriculum makes it" ;;
      cot) need "chain-of-thought data" "$(train_data cot)" "bash shell/generate_cot_data.sh makes it (or leave the stage out: STAGES=source)" ;;
      source) need "source data" "$(train_data source)" "instruction_data/README.md tells how to make it" ;;
    esac
  done
}

# need_general_adapter: stop if GENERAL_ADAPTER names a folder without an adapter.
need_general_adapter() {
  case "$GENERAL_ADAPTER" in
    "" | none) ;;
    *) need "general adapter" "$GENERAL_ADAPTER/adapter_config.json" "GENERAL_ADAPTER=none goes without one" ;;
  esac
}
