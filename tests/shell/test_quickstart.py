"""shell/quickstart.sh.

1. It waits for its teacher only as long as there is one.
2. --model smollm2: the recipe for small models, fewer rows, a workspace of its own; how long it takes is said before the
   first score, from a trial of two steps.
3. The forecast is arithmetic on the run.json of a trial.
"""

import pytest

from tests.shell.conftest import program
from tlrec.demo.forecast import rates
from tlrec.errors import InputError

SMALL = {"lora_target_modules": ["all-linear"], "lora_dropout": 0, "batch_size": 16, "cutoff_len": 1024}
OTHERS = ("tlrec.demo.workspace", "tlrec.demo.teacher", "generate_data.py", "preprocess_data.py")


def test_a_teacher_that_dies_ends_the_quickstart(launch, tmp_path):
    teacher = '[ "$2" != tlrec.demo.teacher ] || { echo "no room" >&2; exit 3; }\n'
    python = program(
        tmp_path / "python", teacher + '[ "$2" = tlrec.demo.workspace ] || { echo "went on: $*" >&2; exit 4; }'
    )
    done = launch("quickstart.sh", PYTHON=python, status=1)
    assert done.stderr == "no room\nerror: the offline teacher stopped before it was ready\n"


@pytest.fixture
def quickstart(launch, root):
    """quickstart(*arguments): (words of the command that makes the workspace, the tuners' and evaluations' commands)."""
    (root / "base_model" / "small").mkdir()

    def run(*arguments):
        commands = launch("quickstart.sh", *arguments, BASE_MODEL=str(root / "base_model" / "small")).commands
        (workspace,) = (command.words for command in commands if command.script == "tlrec.demo.workspace")
        return workspace[1:], [command for command in commands if command.script not in OTHERS]

    return run


def has(command, script, **wanted):
    """Whether it is this script's, with these values of its flags."""
    assert command.script == script
    assert vars(command.flags).items() >= wanted.items()


def test_smollm2_learns_by_the_small_recipe_and_says_how_long(quickstart, root):
    workspace, commands = quickstart("--model", "smollm2")
    trial, said, untuned, cot, after_cot, source, after_source, *shots, summary = commands
    assert workspace == [str(root), "--movie_test", "200"]
    has(trial, "ins_tuning.py", **SMALL, max_train_samples=32, warmup_steps=0)
    assert str(root) not in trial.flags.output_dir  # a folder of its own, removed
    assert said.script == "tlrec.demo.forecast"  # 6 x 200 + 10 x 32 rows; 213 + 384 + 2 x 336 rows
    assert said.words[2:] == ["--scored_rows", "1520", "--loads", "8", "--tuned_rows", "1269"]
    has(untuned, "evaluate.py", lora_weights=[])
    movie, few = root / "instruction_model" / "movie", SMALL | {"max_val_samples": 32}
    first, second = (str(movie / name) for name in ("alpaca_stage123", "alpaca_stage123_instrument"))
    has(cot, "ins_tuning.py", **few, stage="cot", max_train_samples=64, warmup_steps=2, output_dir=first)
    few |= {"resume_from_checkpoint": first}
    has(source, "ins_tuning.py", **few, stage="source", max_train_samples=384, warmup_steps=2, output_dir=second)
    has(after_cot, "evaluate.py", lora_weights=[first])
    has(after_source, "evaluate.py", lora_weights=[second])
    few |= {"resume_from_checkpoint": second, "seed": [0], "num_epochs": 2, "warmup_steps": 1}
    for run, sample, steps in zip(shots, (16, 64, 256), (2, 4, 10), strict=True):
        has(run, "rec_tuning.py", **few, sample=[sample], eval_steps=steps)
    assert summary.words == ["tlrec.demo.summary", str(root), "movie"]
    _, again = quickstart("--model", "smollm2")
    assert "tlrec.demo.forecast" not in [command.script for command in again]  # the curriculum is there


def test_pocket_llama_learns_by_the_small_recipe_too(quickstart, root):
    workspace, (untuned, cot, _, source, _, *shots, summary) = quickstart()
    assert workspace == [str(root)] and untuned.script == "evaluate.py" and summary.script == "tlrec.demo.summary"
    for stage in (cot, source):
        has(stage, "ins_tuning.py", **SMALL, max_train_samples=384, max_val_samples=100, eval_steps=4)
    for run, sample, epochs, every in zip(shots, (16, 64, 256), (20, 10, 5), (4, 8, 16), strict=True):
        has(run, "rec_tuning.py", sample=[sample], num_epochs=epochs, eval_steps=every, batch_size=16)
        assert -(-sample // 16) * epochs / every >= 5  # validations


def test_the_forecast():
    arguments = {"max_train_samples": 32, "num_epochs": 1, "max_val_samples": 16}
    results = {"seconds": 20.0, "seconds_validation": 4.0, "history": [{}, {}]}
    assert rates({"seconds": 40.0, "arguments": arguments, "results": results}) == (2.0, 8.0, 20.0)
    with pytest.raises(InputError, match="needs --max_train_samples and --max_val_samples"):
        rates({"seconds": 40.0, "arguments": arguments | {"max_val_samples": -1}, "results": results})
