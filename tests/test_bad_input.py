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
from tlrec.files import sha256

SCRIPTS = ("ins_tuning.py", "rec_tuning.py", "evaluate.py")


def yes_no(n=4):
    return [{"instruction": "i", "input": f"in {k}", "output": "Yes." if k % 2 else "No."} for k in range(n)]


def spoilt(row, **changes):
    rows = yes_no()
    rows[row - 1] = {key: value for key, value in {**rows[row - 1], **changes}.items() if value is not ...}
    return json.dumps(rows)


# what a record file holds -> what is said about it, behind its path; all kinds are in tests/data/test_records.py
RECORD_FILES = {
    "absent": (None, "no such file"),
    "cut off": (json.dumps(yes_no())[:-5], "row 4 is not JSON: "),
    "no rows": ("[]", "holds no records"),
    "a field missing": (spoilt(2, input=...), "row 2: the field 'input' is missing"),
    "a folder": ("/", "is not a file"),
}
LABELLED_FILES = {"no label": (spoilt(2, output="Maybe."), "row 2: 'output' must be 'Yes.' or 'No.', not 'Maybe.'")}
TWO_CLASS_FILES = {
    "one class": (json.dumps(yes_no()[1::2]), "all 2 rows are labelled 'Yes.'; AUC needs both 'Yes.' and 'No.'")
}
DATA_FLAGS = [
    ("ins_tuning.py", "--train_data_path", RECORD_FILES),
    ("ins_tuning.py", "--val_data_path", RECORD_FILES | LABELLED_FILES | TWO_CLASS_FILES),
    ("rec_tuning.py", "--train_data_path", RECORD_FILES | LABELLED_FILES),
    ("rec_tuning.py", "--val_data_path", RECORD_FILES | LABELLED_FILES | TWO_CLASS_FILES),
    ("rec_tuning.py", "--test_data_path", RECORD_FILES | LABELLED_FILES | TWO_CLASS_FILES),
    ("evaluate.py", "--test_data_path", RECORD_FILES | LABELLED_FILES | TWO_CLASS_FILES),
    ("evaluate.py", "--train_data_path", RECORD_FILES | LABELLED_FILES),
]

# how a good folder is spoilt, and what is said about it
BASE_MODELS = {
    "absent": (lambda folder: shutil.rmtree(folder), "no such folder; base_model/README.md tells how to place a model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in this folder (looked for mod"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "no tokenizer in this folder (looked for "),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no configuration in this folder (looked "),
}
ADAPTERS = {
    "absent": (lambda folder: shutil.rmtree(folder), "{flag} {path}: no such adapter folder"),
    "no configuration": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "{flag} {path}: no adapter_config.json in this folder; was the run that should make it stopped?",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "{path}: an adapter without weights (looked for adapter_model.safetensors and adapter_model.bin)",
    ),
    "damaged configuration": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "{path}/adapter_config.json: damaged: ",
    ),
    "no LoRA": (lambda folder: edit(folder, peft_type="IA3"), "{flag} {path}: a LoRA adapter is needed, this is 'IA3'"),
    "more than LoRA": (
        lambda folder: edit(folder, use_something_new=True),
        "{flag} {path}: adapter_config.json has use_something_new true, which TLRec does not carry out, so the adapter",
    ),
}
OTHER_LORA = {
    "--lora_r 4": "the adapter has r 8, this run asks for 4; give --lora_r 8 or another start adapter",
    "--lora_alpha 32": "the adapter has lora_alpha 16, this run asks for 32; give --lora_alpha 16 or another start",
    "--lora_target_modules k_proj": "the adapter has target modules q_proj v_proj, this run asks for k_proj; give "
    "--lora_target_modules q_proj v_proj",
}
# flags of the tuners -> message
TUNER_FLAGS = {
    "--batch_size 8 --micro_batch_size 3": "--batch_size 8 is not a multiple of --micro_batch_size 3",
    "--micro_batch_size 0": "--micro_batch_size 0: give 1 or more",
    "--num_epochs 0": "--num_epochs 0: give 1 or more",
    "--eval_steps -3": "--eval_steps -3: give 1 or more",
    "--prompt_loss_weight 1.5": "--prompt_loss_weight 1.5: give 0 to 1",
    "--patience 0": "--patience 0: give 1 or more",
    "--lora_r 0": "--lora_r 0: give 1 or more",
}
SAMPLES = {
    "ins_tuning.py": {
        f"--max_train_samples {n}": f"--max_train_samples {n}: {{train}} has 1 to 16 rows, or -1 for all"
        for n in (0, 17, -2)
    },
    "rec_tuning.py": {f"--sample {n}": f"--sample {n}: {{train}} has 1 to 40 rows, or -1 for all" for n in (0, 41, -2)}
    | {"--sample 4 16 41": "--sample 41: {train} has 1 to 40 rows, or -1 for all"},
}


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def good_flags(script, llama, workspace, out):
    movie = workspace / "rec_data" / "movie"
    if script == "evaluate.py":
        return {"--base_model": llama, "--test_data_path": movie / "test.json"}
    train = workspace / "instruction_data" / "netflix" if script == "ins_tuning.py" else movie
    paths = {"--train_data_path": train / "train.json", "--val_data_path": movie / "valid.json", "--output_dir": out}
    return {"--base_model": llama, **paths}


def snapshot(root):
    """{path: digest} of every file and folder below `root`."""
    return {str(path): path.is_file() and sha256(path) for path in sorted(root.rglob("*"))}


@pytest.fixture(scope="module")
def cases(tiny_llama, tiny_adapter, tiny_workspace, tmp_path_factory):
    """[(name, command, message)] of all mistakes, with the spoilt files and folders they need."""
    root = tmp_path_factory.mktemp("mistakes")
    cases = []

    def add(name, script, changes, message, *more):
        flags = good_flags(script, tiny_llama, tiny_workspace, root / "out" / str(len(cases))) | changes
        words = [str(word) for pair in flags.items() for word in pair] + list(more)
        cases.append((f"{script} {name}", [str(REPOSITORY / script), *words], message))

    for script, flag, files in DATA_FLAGS:
        for name, (content, message) in files.items():
            path = root / "data" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            if content == "/":
                path.mkdir(exist_ok=True)
            elif content is not None:
                path.write_text(content)
            add(f"{flag} {name}", script, {flag: path}, f"{path}: {message}")
    for script in SCRIPTS:
        for name, (spoil, message) in BASE_MODELS.items():
            folder = shutil.copytree(tiny_llama, root / f"{script} {name}")
            spoil(folder)
            add(f"base model, {name}", script, {"--base_model": folder}, f"--base_model {folder}: {message}")
        flag = "--lora_weights" if script == "evaluate.py" else "--resume_from_checkpoint"
        for name, (spoil, message) in ADAPTERS.items():
            folder = shutil.copytree(tiny_adapter, root / f"{script} adapter {name}")
            spoil(folder)
            add(f"adapter, {name}", script, {flag: folder}, message.format(flag=flag, path=folder))
    for script in ("ins_tuning.py", "rec_tuning.py"):
        train = good_flags(script, tiny_llama, tiny_workspace, None)["--train_data_path"]
        for flags, message in (TUNER_FLAGS | SAMPLES[script]).items():
            add(flags, script, {}, message.format(train=train), *flags.split())
        for flags, message in OTHER_LORA.items():
            message = f"--resume_from_checkpoint {tiny_adapter}: {message}"
            add(flags, script, {"--resume_from_checkpoint": tiny_adapter}, message, *flags.split())
        taken = shutil.copytree(tiny_adapter, root / f"{script} taken")
        message = f"--output_dir {taken}: holds another run's result; give --overwrite or another folder"
        add("another run's adapter", script, {"--output_dir": taken}, message)
        file = root / "data" / "no rows.json"
        add("a file for a folder", script, {"--output_dir": file}, f"--output_dir {file}: cannot be written to: ")
    message = "--output_dir takes one adapter; without it each adapter's results go into its own folder"
    more = ["--lora_weights", str(tiny_adapter), str(tiny_adapter)]
    add("one folder for two adapters", "evaluate.py", {"--output_dir": root / "out"}, message, *more)
    return root, cases


@pytest.fixture(scope="module")
def results(cases):
    """Every mistake made in one Python process, which has no reason ever to import torch."""
    root, mistakes = cases
    before = snapshot(root)
    commands = [command for _, command, _ in mistakes]
    commands += [[str(REPOSITORY / script), "--help"] for script in SCRIPTS]
    return run_all(commands), before, snapshot(root)


def test_every_mistake_is_one_line(cases, results):
    wrong = []
    for (name, _, message), (status, out, err, _) in zip(cases[1], results[0]):
        if (status, out) != (2, "") or not err.startswith(f"error: {message}") or err.count("\n") != 1:
            wrong.append(f"{name}\n  expected 2 error: {message}\n  found {status} {out}{err}")
    assert not wrong, "\n".join(wrong)


def test_no_mistake_imports_torch(results):
    assert results[0][-1][3] == []


def test_nothing_that_existed_is_lost(results):
    _, before, after = results
    assert {path: after.get(path) for path in before} == before
    left = sorted(set(after) - set(before))
    assert left == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script, results):
    status, out, err, _ = results[0][len(results[0]) - len(SCRIPTS) + SCRIPTS.index(script)]
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: {script}") and f"python {script} --base_model base_model/llama-7b/" in out


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_flag_in_a_process_of_its_own(script):
    needed = {"evaluate.py": "--test_data_path x"}.get(script, "--train_data_path x --val_data_path y --output_dir z")
    command = [sys.executable, "-X", "importtime", script, "--base_modle", "x", *needed.split()]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    imports, said = [], []
    for line in process.stderr.splitlines():
        (imports if line.startswith("import time:") else said).append(line)
    assert process.returncode == 2
    assert said[-1].startswith(f"{script}: error: unrecognized arguments: --base_modle x")
    imported = {line.split("|")[-1].strip() for line in imports}
    assert "tlrec.data.records" in imported and not imported & {*HEAVY, "pydantic", "pydantic_core"}


# ----------------------------------------------------------------------------------- what only torch can see


@pytest.fixture
def no_base(monkeypatch):
    """The base model's weights must not be loaded."""

    from tlrec.model import base_models

    def refuse(*arguments, **options):
        raise AssertionError("the base model was loaded")

    monkeypatch.setattr(base_models, "load_base_model", refuse)


@pytest.fixture
def run(run_script, no_base, tiny_llama, tiny_workspace, tmp_path):
    """Run a script with good flags but for `changes`; return status, output and the last line of standard error."""

    def run(script, changes, *more):
        flags = good_flags(script, tiny_llama, tiny_workspace, tmp_path / "out") | {"--device": "cpu"} | changes
        status, out, err = run_script(script, *[word for pair in flags.items() for word in pair], *more)
        return status, err.splitlines()[-1]

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_gpu_where_none_is(run, script, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, line = run(script, {"--device": "cuda"})
    assert status == 2 and line.startswith("error: --device cuda: ") and line.endswith("; or give --device cpu")


@pytest.mark.parametrize("script", SCRIPTS)
def test_adapters_that_do_not_fit(run, script, tiny_adapter, tmp_path):
    from safetensors.torch import save_file

    from tests.support.models import make_adapter, make_llama

    def refused(adapter, message):
        before = snapshot(adapter)
        status, line = run(script, {adapter_flag: adapter})
        assert status == 2 and line.startswith(f"error: {message}"), line
        assert snapshot(adapter) == before

    adapter_flag = "--lora_weights" if script == "evaluate.py" else "--resume_from_checkpoint"
    other = make_adapter(tmp_path / "other", make_llama(tmp_path / "base", layers=3))
    refused(other, f"{other}: the adapter has 4 tensors that this run has no place for, such as base_model.")
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    refused(adapter, f"{weights}: damaged adapter weights: ")
    save_file({}, weights)
    refused(adapter, f"{adapter}: the adapter holds no tensors")
    (adapter / "run.json").write_text('{"frame": "alp')
    refused(adapter, f"{adapter / 'run.json'}: damaged: ")


@pytest.mark.parametrize("script", ["ins_tuning.py", "rec_tuning.py"])
def test_target_modules_that_the_base_does_not_have(run, script, tiny_llama):
    status, line = run(script, {}, "--lora_target_modules", "query")
    assert status == 2
    reason = "LlamaForCausalLM has no modules named query"
    assert line == f"error: --lora_target_modules: LoRA does not fit on --base_model {tiny_llama}: {reason}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_flags_that_do_not_fit(run, script):
    status, line = run(script, {"--cutoff_len": 20})
    assert status == 2 and line.startswith("error: ") and "--cutoff_len 20" in line
    assert run(script, {"--dtype": "float16"}) == (2, "error: --dtype float16 needs a GPU; give float32 or bfloat16")
