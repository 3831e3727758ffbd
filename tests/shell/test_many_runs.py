"""shell/ablation.sh and shell/real_results.sh: many runs by the launchers alone, which the report ends.

1. Ablation: the base model and every curriculum, each zero-shot and few-shot with all shots and seeds. With a general
   adapter everything is done twice, without and with it, in folders of their own. An error stops everything.
2. Real results: every source with every target, after one source stage for all targets; shots on each, and all rows in one
   pass. Recipe and base model name them.
"""

import pytest

from tests.shell.conftest import make_adapter

ABLATION = ("ablation.sh", "cpu", "movie", "netflix")
CURRICULA = ("base", "cot", "source", "cot source", "stage1 stage12 cot source")
LABELS = {"stage1": "_stage1", "stage12": "_stage12", "cot": "_stage123", "source": "_instrument"}


def curricula(name, base, general="-", which=CURRICULA):
    """The steps of these curricula in folders that begin with `name`; those of the base alone, in a folder `base`."""
    for stages in which:
        start, folder = general, name
        if stages == "base":
            yield from (f"{what}: {general} -> output/movie/{base}" for what in ("zero-shot", "few-shot"))
            continue
        for stage in stages.split():
            folder += LABELS[stage]
            yield f"{stage}: {start} -> instruction/movie/{folder}"
            start = f"instruction/movie/{folder}"
        yield from (f"zero-shot: {start} -> -", f"few-shot: {start} -> output/movie/{folder}")


def test_all_curricula(launch, root):
    done = launch(*ABLATION, "--batch_size", "64")
    assert done.steps == [*curricula("alpaca", "base"), "tlrec.report"]
    *commands, report = done.commands
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
    some = {"CURRICULA": " source ,base", "SHOTS": "8", "SEEDS": "4 5", "STAGES": "cot", "SOURCE": "another"}
    for general, name in (("instruction/movie/alpaca", "alpaca"), ("org/lora", "org--lora")):
        given = {"GENERAL_ADAPTER": general} if general == "org/lora" else {}
        done = launch("ablation.sh", "1", "movie", "netflix", **some, **given)
        without = curricula("fresh", "base", which=("source", "base"))
        assert done.steps == [*without, *curricula(name, name, general, ("source", "base")), "tlrec.report"]
        few = [command.flags for command in done.commands if command.script == "rec_tuning.py"]
        assert {(*flags.sample, *flags.seed, flags.device) for flags in few} == {(8, 4, 5, "cuda")}


def test_a_mistake_inside_stops_everything(launch):
    done = launch(*ABLATION, FAIL_AT="--stage source", status=2)
    assert (done.steps, done.stderr) == (list(curricula("alpaca", "base"))[:6], "error: as asked\n")


# ------------------------------------------------------------------------------------------------------- real results


@pytest.fixture
def real(launch, root):
    """real(**environment) -> what real_results.sh has done with a base model called smollm2-135m."""
    base = root / "base_model" / "smollm2-135m"
    base.mkdir()
    return lambda **given: launch("real_results.sh", "cpu", **{"BASE_MODEL": str(base)} | given)


def test_sources_and_none(real, root):
    done = real(TARGETS="movie", SOURCES="none netflix", SEEDS="0 1")
    alone, adapter, tuned = "output/movie/small_from_none", "instruction/movie/small_from_netflix", "small_from_netflix"
    assert done.steps == [
        f"zero-shot: - -> {alone}",
        *[f"few-shot: - -> {alone}"] * 2,
        f"source: - -> {adapter}",
        f"zero-shot: {adapter} -> -",
        *[f"few-shot: {adapter} -> output/movie/{tuned}"] * 2,
        "tlrec.report",
    ]
    _, few, rows, source, *_ = (command.flags for command in done.commands)
    assert source.train_data_path == str(root / "instruction_data/netflix/train.json")
    assert {flags.batch_size for flags in (source, few, rows)} == {16}
    assert {flags.max_val_samples for flags in (source, few, rows)} == {200}
    assert (few.sample, rows.sample, few.seed, rows.seed) == ([16, 64, 256], [-1], [0, 1], [0, 1])
    assert (source.eval_steps, rows.eval_steps, rows.num_epochs) == (50, 50, 1)


def test_one_source_stage_for_all_targets(real, root):
    (root / "other").mkdir()
    own = {"RECIPE": "published", "BASE_MODEL": str(root / "other"), "ALL_ROWS": "0", "SOURCES": "netflix"}
    done, name = real(TARGETS="movie book", **own), "published_from_netflix_other"
    adapter = f"instruction/movie/{name}"
    book = [f"zero-shot: {adapter} -> output/book/{name}", f"few-shot: {adapter} -> output/book/{name}", "tlrec.report"]
    movie = [f"source: - -> {adapter}", f"zero-shot: {adapter} -> -", f"few-shot: {adapter} -> output/movie/{name}"]
    assert done.steps == movie + book
    assert done.commands[0].flags.batch_size == 128
    assert done.commands[3].flags.test_data_path == str(root / "rec_data/book/test.json")
    assert real(TARGETS="book", TUNED_FOR="movie", **own).steps == book  # the adapter is there already
