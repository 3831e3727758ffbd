"""shell/quickstart.sh.

1. It waits for its teacher only as long as there is one.
2. --model smollm2: the recipe for small models, fewer rows, a workspace of its own; how long it takes is said before the
   first score, from a trial of two steps.
3. An unknown model or argument is one line, before any work.
4. The forecast is arithmetic on the run.json of a trial.
"""

import os
import subprocess

import pytest

from tests.conftest import REPOSITORY
from tlrec.demo.forecast import rates
from tlrec.errors import InputError


def test_a_teacher_that_dies_ends_the_quickstart(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        '[ "$2" != tlrec.demo.teacher ] || { echo "no room" >&2; exit 3; }\n'
        '[ "$2" = tlrec.demo.workspace ] || { echo "went on: $*" >&2; exit 4; }\n'
    )
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHON": str(python),
        "ROOT_PATH": str(tmp_path / "workspace"),
        "STAGES": "cot source",
    }
    command = ["bash", REPOSITORY / "shell" / "quickstart.sh"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == "no room\nerror: the offline teacher stopped before it was ready\n"


# Stands for Python: notes its arguments, makes the adapter and the CoT records that were asked for, and a teacher's address.
STUB = """#!/usr/bin/env bash
echo "${RECIPE-none} $*" >> "$LAUNCH_LOG"
if [ "$2" = tlrec.demo.teacher ]; then echo http://nowhere > "$4"; exec sleep 20; fi
case "$1" in *preprocess_data.py) mkdir -p "$ROOT_PATH/cot_data"; echo [] > "$ROOT_PATH/cot_data/stage123.json" ;; esac
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' > "$2/adapter_config.json" && echo '{}' > "$2/run.json"; }
  shift
done
"""


@pytest.fixture
def quickstart(tmp_path):
    """quickstart(*arguments, **environment): (the process, the commands that it started, of this repository) with a stub
    for Python and a workspace with the data files that launchers ask for."""
    root, python, log = tmp_path / "work space", tmp_path / "python", tmp_path / "log"
    python.write_text(STUB)
    python.chmod(0o755)
    files = ["instruction_data/netflix/train", "instruction_data/amazon-book/train"]
    for path in (*files, "rec_data/movie/train", "rec_data/movie/valid", "rec_data/movie/test"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{path}.json").write_text("[]")
    (tmp_path / "model").mkdir()

    def run(*arguments, **environment):
        given = {"PYTHON": str(python), "ROOT_PATH": str(root), "BASE_MODEL": str(tmp_path / "model")}
        own = {key: value for key, value in os.environ.items() if key not in ("STAGES", "RECIPE", "GENERAL_ADAPTER")}
        environment = own | given | {"LAUNCH_LOG": str(log)} | environment
        command = ["bash", REPOSITORY / "shell" / "quickstart.sh", *arguments]
        log.write_text("")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        lines = log.read_text().replace(f"{REPOSITORY}/", "").replace(str(root), "ROOT").splitlines()
        return done, [line for line in lines if not line.split()[1].startswith("-c")]

    return run


def test_smollm2_learns_by_the_small_recipe_and_says_how_long(quickstart):
    done, commands = quickstart("--model", "smollm2")
    assert done.returncode == 0, done.stderr
    assert all(command.startswith("small ") for command in commands)
    commands = [command.removeprefix("small ").removeprefix("-m ") for command in commands]
    assert commands[0] == "tlrec.demo.workspace ROOT --movie_test 200"
    trial, said, untuned, *rest = [c for c in commands if c.split()[0] not in WORKSPACE]
    assert trial.startswith("ins_tuning.py") and "--max_train_samples 32 --warmup_steps 0" in trial and "ROOT" in trial
    assert "--output_dir ROOT" not in trial  # a folder of its own, removed
    assert said.startswith("tlrec.demo.forecast ")
    assert said.endswith("--scored_rows 1520 --loads 8 --tuned_rows 1269")  # 6 x 200 + 10 x 32; 213 + 384 + 2 x 336
    assert untuned.startswith("evaluate.py") and "--lora_weights" not in untuned
    cot, after_cot, source, after_source, *shots, summary = rest
    small = "--lora_target_modules all-linear --lora_dropout 0 --batch_size 16"
    assert cot.startswith("ins_tuning.py") and f"--stage cot --target movie {small}" in cot
    assert cot.endswith("--max_train_samples 64 --max_val_samples 32 --warmup_steps 2 --cutoff_len 1024")
    assert source.endswith("--max_train_samples 384 --max_val_samples 32 --warmup_steps 2 --cutoff_len 1024")
    assert "--resume_from_checkpoint ROOT/instruction_model/movie/alpaca_stage123 " in source
    assert "--lora_weights ROOT/instruction_model/movie/alpaca_stage123 " in after_cot
    assert "--lora_weights ROOT/instruction_model/movie/alpaca_stage123_instrument " in after_source
    for run, sample, steps in zip(shots, (16, 64, 256), (2, 4, 10), strict=True):
        assert "--resume_from_checkpoint ROOT/instruction_model/movie/alpaca_stage123_instrument " in run
        assert f"--sample {sample} --seed 0" in run and small in run
        flags = f"--max_val_samples 32 --cutoff_len 1024 --warmup_steps 1 --num_epochs 2 --eval_steps {steps}"
        assert run.endswith(flags)
    assert summary == "tlrec.demo.summary ROOT movie"
    _, again = quickstart("--model", "smollm2")
    assert not [command for command in again if "forecast" in command]  # the curriculum is there


WORKSPACE = ("tlrec.demo.workspace", "tlrec.demo.teacher", "cot_data/generate_data.py", "cot_data/preprocess_data.py")


def test_pocket_llama_learns_by_the_small_recipe_too(quickstart):
    done, commands = quickstart()
    assert done.returncode == 0, done.stderr
    assert all(command.startswith("small ") for command in commands)
    commands = [command.removeprefix("small ").removeprefix("-m ") for command in commands]
    assert commands[0] == "tlrec.demo.workspace ROOT" and not [c for c in commands if "forecast" in c]
    steps = [c for c in commands if c.split()[0] not in WORKSPACE]
    expected = ["evaluate.py", *["ins_tuning.py", "evaluate.py"] * 2, *["rec_tuning.py"] * 3, "tlrec.demo.summary"]
    assert [c.split()[0] for c in steps] == expected
    for stage in (steps[1], steps[3]):
        assert stage.endswith("--max_train_samples 384 --max_val_samples 100 --eval_steps 4 --cutoff_len 1024")
    for run, shots, epochs, every in zip(steps[5:8], (16, 64, 256), (20, 10, 5), (4, 8, 16)):
        assert f"--sample {shots} " in run and run.endswith(f"--num_epochs {epochs} --eval_steps {every}")
        assert -(-shots // 16) * epochs / every >= 5  # validations
    assert any("preprocess_data.py" in c and "--cutoff_len 1024" in c for c in commands)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "gpt"], "error: --model gpt: give pocket-llama or smollm2"),
        (["--model"], "error: --model: give pocket-llama or smollm2"),
        (["--modle", "smollm2"], "error: --modle: quickstart.sh takes --model and --help"),
    ],
)
def test_unknown_arguments(quickstart, arguments, message):
    done, commands = quickstart(*arguments)
    assert (done.returncode, done.stderr, commands) == (2, message + "\n", [])


def test_the_forecast():
    run = {
        "seconds": 40.0,
        "arguments": {"max_train_samples": 32, "num_epochs": 1, "max_val_samples": 16},
        "results": {"seconds": 20.0, "seconds_validation": 4.0, "history": [{}, {}]},
    }
    assert rates(run) == (2.0, 8.0, 20.0)
    run["arguments"]["max_val_samples"] = -1
    with pytest.raises(InputError, match="needs --max_train_samples and --max_val_samples"):
        rates(run)
