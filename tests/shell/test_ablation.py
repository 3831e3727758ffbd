"""shell/ablation.sh, and what it asks of zero_shot.sh and few_shot.sh.

1. The base model and every curriculum, each zero-shot and few-shot with all shots and seeds; the report comes last.
2. Each adapter starts from the one before; shared beginnings share their folders.
3. With a general adapter everything is done twice, without and with it, in folders of their own.
4. What is missing is one line before any work; an error stops everything.
"""

from pathlib import Path

import pytest

from tests.shell.conftest import make_adapter

ABLATION = ("ablation.sh", "cpu", "movie", "netflix")


def steps(commands, root):
    """Each command in short: "stage: start -> adapter", "few-shot: start -> folder" or "zero-shot: adapter -> folder"."""

    def short(path):
        return path.replace(f"{root}/", "").replace("_model/movie", "") if path else "-"

    for command in commands:
        flags = command.flags
        if not flags:
            yield command.script
        elif command.script == "evaluate.py":
            yield f"zero-shot: {short((flags.lora_weights or [None])[0])} -> {short(flags.output_dir)}"
        else:
            yield f"{flags.stage}: {short(flags.resume_from_checkpoint)} -> {short(flags.output_dir)}"


def expected(name, general="-", curricula=("base", "cot", "source", "cot source", "stage1 stage12 cot source")):
    """The steps of all curricula whose folders begin with `name`."""
    labels = {"stage1": "_stage1", "stage12": "_stage12", "cot": "_stage123", "source": "_instrument"}
    for stages in curricula:
        start, folder = general, name
        if stages == "base":
            alone = f"output/{'base' if general == '-' else Path(general).name}"
            yield from (f"zero-shot: {general} -> {alone}", f"few-shot: {general} -> {alone}")
            continue
        for stage in stages.split():
            folder += labels[stage]
            yield f"{stage}: {start} -> instruction/{folder}"
            start = f"instruction/{folder}"
        yield from (f"zero-shot: {start} -> -", f"few-shot: {start} -> output/{folder}")


def test_all_curricula(launch, root):
    commands = launch(*ABLATION, "--batch_size", "64").commands
    assert list(steps(commands, root)) == [*expected("alpaca"), "tlrec.report"]
    *commands, report = commands
    assert report.words[-1] == str(root)
    trained_on = {stage: f"cot_data/{stage}.json" for stage in ("stage1", "stage12")}
    trained_on |= {"cot": "cot_data/stage123.json", "source": "instruction_data/netflix/train.json"}
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


def test_with_a_general_adapter(launch, root):
    make_adapter(root / "instruction_model" / "movie" / "alpaca")
    words = ("ablation.sh", "1", "movie", "netflix")
    some = {"CURRICULA": " source ,base", "SHOTS": "8", "SEEDS": "4 5", "STAGES": "cot", "SOURCE": "another"}
    curricula = ("source", "base")
    commands = launch(*words, **some).commands
    wanted = [*expected("fresh", "-", curricula), *expected("alpaca", "instruction/alpaca", curricula), "tlrec.report"]
    assert list(steps(commands, root)) == wanted
    few = [command.flags for command in commands if command.script == "rec_tuning.py"]
    assert len(few) == 4 and all((flags.sample, flags.seed) == ([8], [4, 5]) for flags in few)
    assert {command.flags.device for command in commands[:-1]} == {"cuda"}
    other = launch(*ABLATION, **some | {"GENERAL_ADAPTER": "org/lora", "CURRICULA": "source"}).commands
    wanted = [*expected("fresh", "-", ["source"]), *expected("org--lora", "org/lora", ["source"]), "tlrec.report"]
    assert list(steps(other, root)) == wanted


def test_a_mistake_inside_stops_everything(launch, root):
    done = launch(*ABLATION, FAIL_AT="--stage source", status=2)
    assert done.stderr == "error: as asked\n"
    assert list(steps(done.commands, root)) == list(expected("alpaca"))[:6]


@pytest.mark.parametrize(
    "words, environment, message",
    [
        (ABLATION, {"CURRICULA": "mine.json"}, "no records at mine.json; STAGES takes stages and files"),
        (ABLATION, {"EXP_NAME": "mine"}, "EXP_NAME 'mine': it names one experiment, but an ablation runs many; unset"),
        (ABLATION, {"CURRICULA": "base, sauce"}, "STAGES 'sauce': stages are cot and source, stage1 and stage12 of "),
        ((*ABLATION, "--seed", "3"), {}, "--seed: this launcher sets it; give SEEDS instead\n"),
        (ABLATION[:3], {}, "usage: bash shell/ablation.sh GPU TARGET SOURCE"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(refused, words, environment, message):
    refused(message, *words, **environment)
