"""shell/real_results.sh: every source with every target, by the launchers alone.

1. The commands, in order: zero-shot from none and from a source, shots on each, all rows in one pass, the report.
2. One source stage for all targets. Recipe and base model name the results.
3. What is missing is one line before any work.
"""

import pytest

from tests.shell.conftest import refused


@pytest.fixture
def real(launch, root):
    """real(**environment): the commands of real_results.sh on a base model called smollm2-135m."""
    (root / "base_model" / "smollm2-135m").mkdir()

    def run(**environment):
        given = {"BASE_MODEL": str(root / "base_model" / "smollm2-135m"), "TARGETS": "movie", "SOURCES": "netflix"}
        done = launch("real_results.sh", "cpu", **given | environment)
        assert done.returncode == 0, done.stderr
        return done.commands

    return run


def test_the_commands(real, root):
    untuned, shots_alone, all_alone, source, zero_shot, shots, all_rows, report = real(
        SEEDS="0 1", SOURCES="none netflix"
    )
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


def test_recipe_and_base_model_name_the_results(real, root):
    (root / "other").mkdir()
    commands = real(RECIPE="published", BASE_MODEL=str(root / "other"), ALL_ROWS="0")
    assert commands[0].flags.output_dir == str(root / "instruction_model/movie/published_from_netflix_other")
    assert len(commands) == 4 and commands[0].flags.batch_size == 128


def test_one_source_stage_for_all_targets(real, root):
    adapter = str(root / "instruction_model/movie/small_from_netflix")
    source, _, _, zero_shot, shots, _ = real(TARGETS="movie book", ALL_ROWS="0")
    assert source.script == "ins_tuning.py"
    assert (zero_shot.flags.lora_weights, shots.flags.resume_from_checkpoint) == ([adapter], adapter)
    assert zero_shot.flags.test_data_path == str(root / "rec_data/book/test.json")
    assert zero_shot.flags.output_dir == shots.flags.output_dir == str(root / "output_model/book/small_from_netflix")
    again = real(TARGETS="book", TUNED_FOR="movie", ALL_ROWS="0")  # the adapter is there already
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
def test_what_is_missing(launch, root, arguments, environment, message):
    given = {"BASE_MODEL": str(root / "base_model" / "llama-7b"), "TARGETS": "movie", "SOURCES": "none"}
    refused(launch("real_results.sh", *arguments, **given | environment), message)
