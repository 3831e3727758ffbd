"""A user's mistake: one line that names file and row, exit status 2, before a model is loaded, and nothing is lost.

1. Everything that can be seen without torch is seen without torch: `--help`, flags, records, folders, start adapters.
2. What needs torch (tensors, devices) is seen before the base model is loaded.
3. Nothing that existed is changed, nothing half-made is left.
"""

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.mistakes import HEAVY, run_all
from tests.support.tuned import snapshot

TUNERS = ("ins_tuning.py", "rec_tuning.py")
SCRIPTS = (*TUNERS, "evaluate.py")


def yes_no(n=4, row=None, **changes):
    """The text of a record file; changes: of that row, None for a field that is missing."""
    rows = [{"instruction": "i", "input": f"in {k}", "output": "Yes." if k % 2 else "No."} for k in range(n)]
    if row:
        rows[row - 1] = {key: value for key, value in {**rows[row - 1], **changes}.items() if value is not None}
    return json.dumps(rows)


# what a record file holds -> what is said about it, behind its path; all kinds are in tests/data/test_records.py
RECORD_FILES = {
    "absent": (None, "no such file"),
    "cut off": (yes_no()[:-5], "row 4 is not JSON: "),
    "a field missing": (yes_no(row=2, input=None), "row 2: the field 'input' is missing"),
}
LABELLED = RECORD_FILES | {
    "no label": (yes_no(row=2, output="Maybe."), "row 2: 'output' must be 'Yes.' or 'No.', not 'Maybe.'")
}
TWO_CLASS = LABELLED | {
    "one class": (yes_no(2, 1, output="Yes."), "all 2 rows are labelled 'Yes.'; AUC needs both 'Yes.' and 'No.'")
}
DATA_FLAGS = [
    ("ins_tuning.py", "--train_data_path", RECORD_FILES),
    ("ins_tuning.py", "--val_data_path", TWO_CLASS),
    ("rec_tuning.py", "--train_data_path", LABELLED),
    ("rec_tuning.py", "--val_data_path", TWO_CLASS),
    ("rec_tuning.py", "--test_data_path", TWO_CLASS),
    ("evaluate.py", "--test_data_path", TWO_CLASS),
    ("evaluate.py", "--train_data_path", LABELLED),
]
# of a good folder: the file that is removed, or what is changed in its adapter_config.json -> what is said
BASE_MODELS = {
    "": "no such folder; base_model/README.md tells how to place a model",
    "model.safetensors": "no weights in this folder (looked for mod",
    "tokenizer.model": "no tokenizer in this folder (looked for ",
    "config.json": "no configuration in this folder (looked ",
}
ADAPTERS = [
    ("", {}, "{flag} {path}: no such adapter folder"),
    (
        "adapter_config.json",
        {},
        "{flag} {path}: no adapter_config.json in this folder; was the run that should make it",
    ),
    ("adapter_model.safetensors", {}, "{path}: an adapter without weights (looked for adapter_model.safetensors and "),
    (None, None, "{path}/adapter_config.json: damaged: "),
    (None, {"peft_type": "IA3"}, "{flag} {path}: a LoRA adapter is needed, this is 'IA3'"),
    (
        None,
        {"use_something_new": True},
        "{flag} {path}: adapter_config.json has use_something_new true, which TLRec does not carry out, so the adapter",
    ),
]
OTHER_LORA = {
    "--lora_r 4": "the adapter has r 8, this run asks for 4; give --lora_r 8 or another start adapter",
    "--lora_target_modules k_proj": "the adapter has target modules q_proj v_proj, this run asks for k_proj; give "
    "--lora_target_modules q_proj v_proj",
}
# flags of the tuners -> message
TUNER_FLAGS = {
    "--batch_size 8 --micro_batch_size 3": "--batch_size 8 is not a multiple of --micro_batch_size 3",
    "--num_epochs 0": "--num_epochs 0: give 1 or more",
    "--prompt_loss_weight 1.5": "--prompt_loss_weight 1.5: give 0 to 1",
    "--patience 0": "--patience 0: give 1 or more",
}
SAMPLES = {
    "ins_tuning.py": {"--max_train_samples 17": "--max_train_samples 17: {train} has 1 to 16 rows, or -1 for all"},
    "rec_tuning.py": {
        "--sample 0": "--sample 0: {train} has 1 to 40 rows, or -1 for all",
        "--sample 4 16 41": "--sample 41: {train} has 1 to 40 rows, or -1 for all",
    },
}


def spoilt(folder, copy, remove, changes):
    """A copy of a folder, without it all (""), or a file, or with changes to its adapter_config.json (None: damage)."""
    copy = shutil.copytree(folder, copy)
    if remove is None:
        path = copy / "adapter_config.json"
        path.write_text("{" if changes is None else json.dumps(json.loads(path.read_text()) | changes))
    elif remove:
        (copy / remove).unlink()
    else:
        shutil.rmtree(copy)
    return copy


def good_flags(script, llama, workspace, out):
    movie = workspace / "rec_data" / "movie"
    if script == "evaluate.py":
        return {"--base_model": llama, "--test_data_path": movie / "test.json"}
    train = workspace / "instruction_data" / "netflix" if script == "ins_tuning.py" else movie
    paths = {"--train_data_path": train / "train.json", "--val_data_path": movie / "valid.json", "--output_dir": out}
    return {"--base_model": llama, **paths}


@pytest.fixture(scope="module")
def cases(tiny_llama, tiny_adapter, tiny_workspace, tmp_path_factory):
    """(folder, [(command, message)]) of all mistakes, with the spoilt files and folders that they need."""
    root, cases = tmp_path_factory.mktemp("mistakes"), []

    def add(script, changes, message, more=""):
        flags = good_flags(script, tiny_llama, tiny_workspace, root / "out" / str(len(cases))) | changes
        words = [str(word) for pair in flags.items() for word in pair] + more.split()
        cases.append(([str(REPOSITORY / script), *words], message))

    (root / "folder").mkdir()
    for script, flag, files in DATA_FLAGS:
        add(script, {flag: root / "folder"}, f"{root / 'folder'}: is not a file")
        for name, (content, message) in files.items():
            path = root / f"{name}.json"
            if content is not None:
                path.write_text(content)
            add(script, {flag: path}, f"{path}: {message}")
    for script in SCRIPTS:
        for number, (remove, message) in enumerate(BASE_MODELS.items()):
            folder = spoilt(tiny_llama, root / f"{script} {number}", remove, {})
            add(script, {"--base_model": folder}, f"--base_model {folder}: {message}")
        flag = "--lora_weights" if script == "evaluate.py" else "--resume_from_checkpoint"
        for number, (remove, changes, message) in enumerate(ADAPTERS):
            folder = spoilt(tiny_adapter, root / f"{script} adapter {number}", remove, changes)
            add(script, {flag: folder}, message.format(flag=flag, path=folder))
    for script in TUNERS:
        train = good_flags(script, tiny_llama, tiny_workspace, None)["--train_data_path"]
        for flags, message in (TUNER_FLAGS | SAMPLES[script]).items():
            add(script, {}, message.format(train=train), flags)
        for flags, message in OTHER_LORA.items():
            start = {"--resume_from_checkpoint": tiny_adapter}
            add(script, start, f"--resume_from_checkpoint {tiny_adapter}: {message}", flags)
        taken, file = shutil.copytree(tiny_adapter, root / f"{script} taken"), root / "cut off.json"
        message = f"--output_dir {taken}: holds another run's result; give --overwrite or another folder"
        add(script, {"--output_dir": taken}, message)
        add(script, {"--output_dir": file}, f"--output_dir {file}: cannot be written to: ")
    message = "--output_dir takes one adapter; without it each adapter's results go into its own folder"
    add("evaluate.py", {"--output_dir": root / "out"}, message, f"--lora_weights {tiny_adapter} {tiny_adapter}")
    return root, cases


def test_every_mistake_is_one_line_without_torch_and_loses_nothing(cases):
    root, mistakes = cases
    before = snapshot(root)
    commands = [command for command, _ in mistakes] + [[str(REPOSITORY / script), "--help"] for script in SCRIPTS]
    results, wrong = run_all(commands), []
    for (command, message), (status, out, err, _) in zip(mistakes, results):
        if (status, out) != (2, "") or not err.startswith(f"error: {message}") or err.count("\n") != 1:
            wrong.append(f"{command}\n  expected 2 error: {message}\n  found {status} {out}{err}")
    assert not wrong, "\n".join(wrong)
    assert results[-1][3] == []  # nothing heavy was imported
    assert snapshot(root) == before
    for script, (status, out, err, _) in zip(SCRIPTS, results[-len(SCRIPTS) :], strict=True):
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: {script}") and f"python {script} --base_model base_model/llama-7b/" in out


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_flag_in_a_process_of_its_own(script):
    needed = {"evaluate.py": "--test_data_path x"}.get(script, "--train_data_path x --val_data_path y --output_dir z")
    command = [sys.executable, "-X", "importtime", script, "--base_modle", "x", *needed.split()]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    lines = process.stderr.splitlines()
    assert process.returncode == 2
    assert lines[-1].startswith(f"{script}: error: unrecognized arguments: --base_modle x")
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "tlrec.data.records" in imported and not imported & {*HEAVY, "pydantic", "pydantic_core"}


# ----------------------------------------------------------------------------------- what only torch can see


@pytest.fixture
def refused(run_script, tiny_llama, tiny_workspace, tmp_path, monkeypatch):
    """refused(script, changes, message, flag, ...): a script with good flags but for changes and further ones ends with
    this error, and loads no base model."""
    monkeypatch.delattr("tlrec.model.base_models.load_base_model")

    def run(script, changes, message, *more):
        flags = good_flags(script, tiny_llama, tiny_workspace, tmp_path / "out") | {"--device": "cpu"} | changes
        status, _, err = run_script(script, *[word for pair in flags.items() for word in pair], *more)
        line = err.splitlines()[-1]
        assert status == 2 and line.startswith("error: ") and message in line, line

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_devices_and_flags_that_do_not_fit(refused, script, tiny_llama, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(script, {"--device": "cuda"}, "; or give --device cpu")
    refused(script, {"--cutoff_len": 20}, "--cutoff_len 20")
    refused(script, {"--dtype": "float16"}, "--dtype float16 needs a GPU; give float32 or bfloat16")
    if script in TUNERS:
        message = f"LoRA does not fit on --base_model {tiny_llama}: LlamaForCausalLM has no modules named query"
        refused(script, {}, f"--lora_target_modules: {message}", "--lora_target_modules", "query")


@pytest.mark.parametrize("script", SCRIPTS)
def test_adapters_that_do_not_fit(refused, script, tiny_adapter, tmp_path):
    from safetensors.torch import save_file

    from tests.support.models import make_adapter, make_llama

    def check(adapter, message):
        before = snapshot(adapter)
        refused(script, {"--lora_weights" if script == "evaluate.py" else "--resume_from_checkpoint": adapter}, message)
        assert snapshot(adapter) == before

    other = make_adapter(tmp_path / "other", make_llama(tmp_path / "base", layers=3))
    check(other, f"{other}: the adapter has 4 tensors that this run has no place for, such as base_model.")
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    check(adapter, f"{weights}: damaged adapter weights: ")
    save_file({}, weights)
    check(adapter, f"{adapter}: the adapter holds no tensors")
    (adapter / "run.json").write_text('{"frame": "alp')
    check(adapter, f"{adapter / 'run.json'}: damaged: ")
