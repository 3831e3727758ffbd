"""shell/ablation.sh, and what it asks of zero_shot.sh and few_shot.sh.

1. The base model and every curriculum, each zero-shot and few-shot with all shots and seeds; the report comes last.
2. Each adapter starts from the one before; shared beginnings share their folders.
3. With a general adapter everything is done twice, without and with it, in folders of their own.
4. What is missing is one line before any work; an error stops everything.
"""

from pathlib import Path

import pytest

from tests.shell.conftest import make_adapter, refused

ABLATION = ("ablation.sh", "cpu", "movie", "netflix")


def steps(commands, root):
    """Each command in short: "stage: start -> adapter", "few-shot: start -> folder" or "zero-shot: adapter -> folder"."""

    def short(path):
        return str(Path(path).relative_to(root)).replace("_model/movie", "") if path else "-"

    for command in commands:
        flags = command.flags
        if not flags:
            yield command.script
        elif command.script == "evaluate.py":
            yield f"zero-shot: {short((flags.lora_weights or [None])[0])} -> {short(flags.output_dir)}"
        else:
            yield f"{flags.stage}: {short(flags.resume_from_checkpoint)} -> {short(flags.output_dir)}"


def expected(name, general="-"):
    """The steps of all curricula whose folders begin with `name`."""
    alone = "output/base" if general == "-" else "output/alpaca"
    yield from (f"zero-shot: {general} -> {alone}", f"few-shot: {general} -> {alone}")
    labels = {"stage1": "_stage1", "stage12": "_stage12", "cot": "_stage123", "source": "_instrument"}
    for stages in ("cot", "source", "cot source", "stage1 stage12 cot source"):
        start, folder = general, name
        for stage in stages.split():
            folder += labels[stage]
            yield f"{stage}: {start} -> instruction/{folder}"
            start = f"instruction/{folder}"
        yield from (f"zero-shot: {start} -> -", f"few-shot: {start} -> output/{folder}")


def test_all_curricula(started, root):
    commands = started(*ABLATION, "--batch_size", "64")
    assert list(steps(commands, root)) == [*expected("alpaca"), "tlrec.report"]
    *commands, report = commands
    assert report.words[-1] == str(root)
    trained_on = {"cot": "cot_data/stage123.json", "source": "instruction_data/netflix/train.json"}
    trained_on |= {stage: f"cot_data/{stage}.json" for stage in ("stage1", "stage12")}
    data = root / "rec_data" / "movie"
    for command in commands:
        flags = command.flags
        assert (flags.device, flags.target, flags.base_model) == ("cpu", "movie", f"{root}/base_model/llama-7b/")
        if command.script == "ins_tuning.py":
            assert (flags.train_data_path, flags.batch_size) == (str(root / trained_on[flags.stage]), 64)
        else:
            assert (flags.test_data_path, flags.train_data_path) == (f"{data}/test.json", f"{data}/train.json")
        if command.script == "rec_tuning.py":
            assert (flags.sample, flags.seed, flags.batch_size) == ([16, 64, 256], [0, 1, 2], 64)


def test_with_a_general_adapter(started, root):
    make_adapter(root / "instruction_model" / "movie" / "alpaca")
    commands = started("ablation.sh", "1", "movie", "netflix", SHOTS="8", SEEDS="4 5", STAGES="source")
    wanted = [*expected("fresh"), *expected("alpaca", "instruction/alpaca"), "tlrec.report"]
    assert list(steps(commands, root)) == wanted
    few = [command.flags for command in commands if command.script == "rec_tuning.py"]
    assert len(few) == 10 and all((flags.sample, flags.seed) == ([8], [4, 5]) for flags in few)
    assert {command.flags.device for command in commands[:-1]} == {"cuda"}


def test_some_curricula_from_an_adapter_of_the_hub(started, root):
    make_adapter(root / "instruction_model" / "movie" / "alpaca")
    commands = started(*ABLATION, CURRICULA=" source ,", GENERAL_ADAPTER="org/lora", SOURCE="another")[:-1]
    folders = [f"instruction_model/movie/{name}_instrument" for name in ("fresh", "org--lora")]
    sources, zero_shots, few_shots = ([command.flags for command in commands[place::3]] for place in range(3))
    assert [flags.resume_from_checkpoint for flags in sources] == [None, "org/lora"]
    assert [flags.output_dir for flags in sources] == [str(root / folder) for folder in folders]
    assert [flags.lora_weights for flags in zero_shots] == [[str(root / folder)] for folder in folders]
    assert [flags.resume_from_checkpoint for flags in few_shots] == [str(root / folder) for folder in folders]


def test_a_mistake_inside_stops_everything(launch, root):
    done = launch(*ABLATION, FAIL_AT="--stage source")
    assert (done.returncode, done.stderr) == (2, "error: as asked\n")
    assert list(steps(done.commands, root)) == list(expected("alpaca"))[:6]


@pytest.mark.parametrize(
    "environment, missing, message",
    [
        ({}, "cot_data/stage1.json", "no staged CoT data at {root}/cot_data/stage1.json; python cot_data/preprocess"),
        ({"BASE_MODEL": "/no/model"}, None, "no base model at /no/model; "),
        (
            {"EXP_NAME": "mine"},
            None,
            "EXP_NAME 'mine': it names one experiment, but an ablation runs many; unset EXP_NAME",
        ),
        ({"CURRICULA": "base, sauce"}, None, "STAGES 'sauce': stages are cot and source, stage1 and stage12 of "),
    ],
    ids=str,
)
def test_what_is_missing_is_one_line(launch, root, environment, missing, message):
    if missing:
        (root / missing).unlink()
    refused(launch(*ABLATION, **environment), message.format(root=root))


def test_usage_and_flags_of_the_launcher(launch):
    refused(launch(*ABLATION, "--seed", "3"), "--seed: this launcher sets it; give SEEDS instead\n")
    refused(launch(*ABLATION[:3]), "usage: bash shell/ablation.sh GPU TARGET SOURCE")
