"""shell/quickstart.sh.

1. It waits for its teacher only as long as there is one.
2. The recipe for small models, with fewer rows; for smollm2 it is said before the first score how long it takes, by
   arithmetic on the run.json of a trial of two steps.
"""

import pytest

from tests.shell.conftest import program
from tlrec.demo.forecast import rates
from tlrec.errors import InputError

SMALL = {"lora_target_modules": ["all-linear"], "lora_dropout": 0, "batch_size": 16}


def test_a_teacher_that_dies_ends_the_quickstart(launch, tmp_path):
    says = 'case "$2" in *workspace) echo "$PWD $3" ;; *teacher) echo "no room" >&2; exit 3 ;; *) echo "went on: $*" >&2 ;; esac'
    done = launch("quickstart.sh", PYTHON=program(tmp_path / "python", says), ROOT_PATH="its own", status=1)
    assert done.stdout == f"{tmp_path}/some where its own\n"  # where it was called, whatever is relative
    assert done.stderr == "no room\nerror: the offline teacher stopped before it was ready\n"


COT, SOURCE = "instruction/movie/alpaca_stage123", "instruction/movie/alpaca_stage123_instrument"
STEPS = [
    "tlrec.demo.workspace",
    "tlrec.demo.teacher",
    *["generate_data.py"] * 2,
    "preprocess_data.py",
    "zero-shot: - -> output/movie/base",
    f"cot: - -> {COT}",
    f"zero-shot: {COT} -> -",
    f"source: {COT} -> {SOURCE}",
    f"zero-shot: {SOURCE} -> -",
    *(f"few-shot: {SOURCE} -> output/movie/alpaca_stage123_instrument/0_{shots}" for shots in (16, 64, 256)),
    "tlrec.demo.summary",
]


def tuners(done):
    flags = [command.flags for command in done.commands if "tuning" in command.script]
    assert all(vars(each).items() >= SMALL.items() for each in flags)
    return flags


def test_pocket_llama(launch, root):
    done = launch("quickstart.sh", BASE_MODEL=f"{root}/base_model/llama-7b")
    assert done.steps == STEPS
    _, _, *few_shots = tuners(done)
    for flags in few_shots:
        assert -(-flags.sample[0] // 16) * flags.num_epochs / flags.eval_steps >= 5  # validations


def test_smollm2_says_how_long(launch, root):
    words = ("quickstart.sh", "--model", "smollm2")
    done = launch(*words, BASE_MODEL=f"{root}/base_model/llama-7b")
    trial, forecast = done.steps[5:7]
    assert done.steps == [*STEPS[:5], trial, "tlrec.demo.forecast", *STEPS[5:]]
    # 6 x 200 + 10 x 32 rows; 64 CoT records, 3.3 times as long, + 384 + 2 x 336 rows
    assert done.commands[6].words[2:] == ["--scored_rows", "1520", "--loads", "8", "--tuned_rows", "1269"]
    trial, cot, source, *few_shots = tuners(done)
    rows = [flags.max_train_samples for flags in (trial, cot, source)]
    assert (rows, str(root) in trial.output_dir) == ([32, 64, 384], False)  # the trial's folder is removed
    assert {(flags.num_epochs, flags.max_val_samples) for flags in few_shots} == {(2, 32)}
    assert launch(*words, BASE_MODEL=f"{root}/base_model/llama-7b").steps == STEPS  # the curriculum is there


def test_the_forecast():
    arguments = {"max_train_samples": 32, "num_epochs": 1, "max_val_samples": 16}
    results = {"seconds": 20.0, "seconds_validation": 4.0, "history": [{}, {}]}
    assert rates({"seconds": 40.0, "arguments": arguments, "results": results}) == (2.0, 8.0, 20.0)
    with pytest.raises(InputError, match="needs --max_train_samples and --max_val_samples"):
        rates({"seconds": 40.0, "arguments": arguments | {"max_val_samples": -1}, "results": results})
