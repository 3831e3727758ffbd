"""shell/real_results.sh: every source with every target, by the launchers alone.

1. The commands, in order: zero-shot from none and from a source, shots on each, all rows in one pass, the report.
2. One source stage for all targets. Recipe and base model name the results.
3. What is missing is one line before any work.
"""

import pytest

FIRST = {"TARGETS": "movie", "SOURCES": "netflix"}


@pytest.fixture
def real(launch, root):
    """real(**environment): the commands of real_results.sh on a base model called smollm2-135m."""
    base = root / "base_model" / "smollm2-135m"
    base.mkdir()
    return lambda **more: launch("real_results.sh", "cpu", **FIRST | {"BASE_MODEL": str(base)} | more).commands


def test_the_commands(real, root):
    commands = real(SEEDS="0 1", SOURCES="none netflix")
    untuned, shots_alone, all_alone, source, zero_shot, shots, all_rows, report = commands
    movie, adapter = root / "output_model" / "movie", str(root / "instruction_model/movie/small_from_netflix")
    assert (untuned.flags.lora_weights, untuned.flags.output_dir) == ([], str(movie / "small_from_none"))
    assert source.flags.train_data_path == str(root / "instruction_data/netflix/train.json")
    assert (source.flags.output_dir, source.flags.batch_size) == (adapter, 16)
    assert (source.flags.max_val_samples, source.flags.eval_steps) == (200, 50)
    assert zero_shot.flags.lora_weights == [adapter]
    for name, start, few, rows in (("none", None, shots_alone, all_alone), ("netflix", adapter, shots, all_rows)):
        for flags in (few.flags, rows.flags):
            assert flags.output_dir == str(movie / f"small_from_{name}") and flags.resume_from_checkpoint == start
            assert (flags.seed, flags.max_val_samples, flags.batch_size) == ([0, 1], 200, 16)
        assert (few.flags.sample, rows.flags.sample) == ([16, 64, 256], [-1])
        assert (rows.flags.num_epochs, rows.flags.eval_steps) == (1, 50)
    assert report.script == "tlrec.report"


def test_one_source_stage_for_all_targets(real, root):
    (root / "other").mkdir()
    own = {"RECIPE": "published", "BASE_MODEL": str(root / "other"), "ALL_ROWS": "0"}
    source, _, _, zero_shot, shots, _ = real(TARGETS="movie book", **own)
    adapter = str(root / "instruction_model/movie/published_from_netflix_other")
    assert (source.flags.output_dir, source.flags.batch_size) == (adapter, 128)
    assert (zero_shot.flags.lora_weights, shots.flags.resume_from_checkpoint) == ([adapter], adapter)
    assert zero_shot.flags.test_data_path == str(root / "rec_data/book/test.json")
    results = str(root / "output_model/book/published_from_netflix_other")
    assert zero_shot.flags.output_dir == shots.flags.output_dir == results
    again = real(TARGETS="book", TUNED_FOR="movie", **own)  # the adapter is there already
    assert [command.words for command in again[:-1]] == [zero_shot.words, shots.words]


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ([], {}, "usage: bash shell/real_results.sh GPU"),
        (["cpu"], {"SOURCES": "none goodbooks"}, "no source data at"),
        (["cpu"], {"TARGETS": "movie games"}, "no train data at"),
        (["cpu"], {"BASE_MODEL": "/no/model"}, "no base model at /no/model; bash base_model/get_smollm2.sh makes one"),
    ],
)
def test_what_is_missing(refused, root, arguments, environment, message):
    given = FIRST | {"BASE_MODEL": str(root / "base_model" / "llama-7b")}
    refused(message, "real_results.sh", *arguments, **given | environment)
