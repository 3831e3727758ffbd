#!/usr/bin/env bash
# What the launchers share; source it, do not run it. Sets PYTHON (unless given) and DEVICE, names adapters' folders, and
# checks what a run needs.

fail() {
  echo "error: $1" >&2
  exit 2
}

# The project's own environment if shell/setup.sh has made it, else python3 from the PATH.
if [ -z "${PYTHON:-}" ]; then
  PYTHON="$repository/.venv/bin/python"
  [ -x "$PYTHON" ] || PYTHON="$(command -v python3 || true)"
fi
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" # this checkout's tlrec, whichever one is installed
command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: no such program; bash shell/setup.sh makes one"

# use_recipe NAME: the flags of shell/recipes/NAME.sh. For each stage: cot_flags, source_flags and few_shot_flags. For
# evaluate.py: scoring_flags, where it does not score as the adapter was tuned.
use_recipe() {
  [[ "$1" =~ ^[a-z0-9_-]+$ ]] && [ -e "$repository/shell/recipes/$1.sh" ] ||
    fail "RECIPE '$1': give one of $(cd "$repository/shell/recipes" && echo *.sh | sed 's/\.sh//g')"
  cot_flags=() source_flags=() few_shot_flags=() scoring_flags=()
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

# Whether the arguments ask for checks alone: no adapter is made then, for a next stage or for evaluate.py.
checks_only() {
  case " $* " in *" --check_only "*) return 0 ;; esac
  return 1
}

# trusted "$@": the flag that lets code of the base model run, if it is among the arguments. Only the user can allow that, so
# no file keeps it, and evaluate.py has to be told too.
trusted() {
  local argument
  for argument in "$@"; do [ "$argument" != --trust_remote_code ] || echo "$argument"; done
}

# need WHAT PATH HOW: stop unless PATH exists; the error says what is missing, where it should be, and how to make it.
need() {
  [ -e "$2" ] || fail "no $1 at $2; $3"
}

# on_the_hub NAME: whether it is owner/name of a model or adapter on the Hugging Face hub, which is not fetched here. A path
# that begins with a folder of that name is no hub name, as in tlrec/model/folders.py.
on_the_hub() {
  [[ "$1" =~ ^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$ ]] && [ ! -e "${1%%/*}" ]
}

need_base_model() {
  on_the_hub "$BASE_MODEL" || need "base model" "$BASE_MODEL" "${1:-base_model/README.md tells how to place one}"
}

need_general_adapter() {
  case "$GENERAL_ADAPTER" in "" | none) return ;; esac
  on_the_hub "$GENERAL_ADAPTER" ||
    need "general adapter" "$GENERAL_ADAPTER/adapter_config.json" "GENERAL_ADAPTER=none goes without one"
}

# need_target_data TARGET: stop unless the three splits of the target exist.
need_target_data() {
  local split
  for split in train valid test; do
    need "$split data" "$ROOT_PATH/rec_data/$1/$split.json" "rec_data/README.md tells how to make it"
  done
}

# use_gpu GPU: `cpu`; a GPU's number as nvidia-smi shows it, or its UUID (GPU-..., MIG-...); several such as 0,1,2,3; or
# cpu:2, two processes on the CPU. Sets DEVICE and PROCESSES, and hides all other GPUs.
use_gpu() {
  local one='([0-9]+|(GPU|MIG)-[A-Za-z0-9/-]+)'
  export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=""
  PROCESSES=1 DEVICE=cpu
  if [[ "$1" =~ ^cpu:[1-9][0-9]*$ ]]; then
    PROCESSES="${1#cpu:}"
  elif [[ "$1" =~ ^$one(,$one)*$ ]]; then
    DEVICE=cuda CUDA_VISIBLE_DEVICES="$1" PROCESSES="$(tr , '\n' <<<"$1" | wc -l)"
    # Rows differ in length, and without this the allocator keeps a block of its own for each length
    [ -n "${PYTORCH_CUDA_ALLOC_CONF:-}" ] || export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}"
  elif [ "$1" != cpu ]; then
    fail "GPU '$1': give cpu, the number or UUID of a GPU such as 0, several such as 0,1,2,3, or cpu:2 for two processes"
  fi
  # torchrun kills its processes so many seconds after SIGTERM; a checkpoint comes after the step under way
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
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
  else # --gpu_ids all: those of GPU, whatever the user's own accelerate configuration names
    "$PYTHON" -m accelerate.commands.launch --num_processes "$PROCESSES" --gpu_ids all $how "$script" "$@"
  fi
}

# evaluate TARGET [arguments of evaluate.py]: the target's test set, scored with the settings in the adapter's run.json and those
# of the recipe. Rules that use items need the target's train split.
evaluate() {
  local data="$ROOT_PATH/rec_data/$1" floors=()
  [ ! -e "$data/train.json" ] || floors=(--train_data_path "$data/train.json")
  run evaluate.py --base_model "$BASE_MODEL" --test_data_path "$data/test.json" ${floors[@]+"${floors[@]}"} --device "$DEVICE" \
    --target "$1" --resume ${scoring_flags[@]+"${scoring_flags[@]}"} "${@:2}"
}

# ------------------------------------------------------------------------------------------------- names of the folders

# named PATH: the last folder of a path; owner--name of a hub name.
named() {
  if on_the_hub "$1"; then echo "${1/\//--}"; else basename "$1"; fi
}

# stage_label STAGE: what a stage is called in run.json. A record file has its own name, or for cot_data/netflix/stage123.json and
# the like, whose names every source has, netflix-stage123.
stage_label() {
  local file="${1##*/}" name
  name="${file%.json*}"
  case "$1" in
    */stage1.json | */stage12.json | */stage123.json) echo "$(basename "$(dirname "$1")")-$name" ;;
    *) echo "$name" ;;
  esac
}

# stage_names STAGES: _stage123_instrument, as published, for "cot source".
stage_names() {
  local stage all=""
  [ -n "$1" ] || fail "STAGES is empty: give at least one of cot and source"
  for stage in $1; do
    case "$stage" in
      stage1 | stage12) all="${all}_$stage" ;;
      cot) all="${all}_stage123" ;;
      source) all="${all}_instrument" ;;
      *.json | *.jsonl) all="${all}_$(stage_label "$stage")" ;;
      *) fail "STAGES '$1': stages are cot and source, stage1 and stage12 of the staged CoT, and record files such as mine.json" ;;
    esac
  done
  echo "$all"
}

# suffix: what sets this recipe and base model apart from the published ones, such as _small_smollm2-135m.
suffix() {
  local base
  base="$(named "$BASE_MODEL")"
  [ "$RECIPE" = published ] || printf '_%s' "$RECIPE"
  [ "$base" = llama-7b ] || printf '_%s' "$base"
}

# published_source TARGET: the source domain that the paper's launchers are called with.
published_source() {
  case "$1" in movie) echo netflix ;; book) echo amazon-book ;; esac
}

# adapter_name STAGES SOURCE: the folder of the adapter after these stages. As published for LLaMA-7B by the published recipe:
# alpaca_stage123_instrument for "cot source". It begins with the name of GENERAL_ADAPTER, or with "fresh" if that is none. A
# source other than the published one, a choice of checkpoints by VALID=source, a recipe and a base model are added to it.
adapter_name() {
  local name=alpaca stages valid=""
  stages="$(stage_names "$1")"
  case "$GENERAL_ADAPTER" in "") ;; none) name=fresh ;; *) name="$(named "$GENERAL_ADAPTER")" ;; esac
  name="$name$stages"
  [ "${VALID:-target}" = target ] || valid="_valid-$VALID"
  if [ -n "$valid" ] || [[ " $1 " == *" source "* ]]; then
    [ "$2" = "$(published_source "$target")" ] || name="${name}_$2"
  fi
  echo "$name$valid$(suffix)"
}

# instruction_adapter: the name of the adapter that zero_shot.sh has made for the target by the same variables. Where it depends
# on the source and SOURCE is not given, that of the only source which has one.
instruction_adapter() {
  local published domain name names=() sources=()
  published="$(published_source "$target")"
  if [ -z "$SOURCE" ]; then
    for domain in "$published" "$ROOT_PATH"/instruction_data/*; do
      name="$(adapter_name "$STAGES" "$(basename "$domain")")"
      [ -e "$ROOT_PATH/instruction_model/$target/$name/adapter_config.json" ] || continue
      [[ " ${names[*]-} " == *" $name "* ]] || names+=("$name") sources+=("$(basename "$domain")")
    done
    [ ${#names[@]} -le 1 ] ||
      fail "SOURCE is not given, and $target has adapters from ${sources[*]}; give one of them, such as SOURCE=${sources[0]}"
  fi
  if [ ${#names[@]} -eq 1 ]; then echo "${names[0]}"; else adapter_name "$STAGES" "${SOURCE:-${published:-SOURCE}}"; fi
}

# ------------------------------------------------------------------------------------------------------------- stages

# train_data STAGE SOURCE: the training file of the stage.
train_data() {
  case "$1" in
    stage1 | stage12) echo "$ROOT_PATH/cot_data/$1.json" ;;
    cot) echo "$ROOT_PATH/cot_data/stage123.json" ;;
    source) echo "$ROOT_PATH/instruction_data/$2/train.json" ;;
    *) echo "$1" ;;
  esac
}

# need_train_data STAGES SOURCE: stop unless the training files of all stages exist.
need_train_data() {
  local stage file
  for stage in $1; do
    file="$(train_data "$stage" "$2")"
    case "$stage" in
      stage1 | stage12) need "staged CoT data" "$file" "python cot_data/preprocess_data.py --curriculum makes it" ;;
      cot) need "chain-of-thought data" "$file" \
        "bash shell/get_published_data.sh fetches the paper's, bash shell/generate_cot_data.sh makes your own (or leave the stage out: STAGES=source)" ;;
      source) need "source data" "$file" "instruction_data/README.md tells how to make it" ;;
      *) need "records" "$file" "STAGES takes stages and files of instruction records" ;;
    esac
  done
}
