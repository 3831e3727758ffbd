"""The three scripts on the tiny workspace, and what their folders hold."""

import pytest

QUICK = ["--batch_size", 8, "--micro_batch_size", 4, "--warmup_steps", 0, "--learning_rate", 1e-2, "--num_epochs", 2]
QUICK += ["--eval_steps", 1, "--device", "cpu"]


@pytest.fixture(scope="session")
def stage_words(tiny_llama, tiny_workspace):
    """The command line of ins_tuning.py on 16 rows, two steps an epoch; later flags win."""

    def words(folder, *flags, base=tiny_llama):
        paths = ["--train_data_path", tiny_workspace / "instruction_data" / "netflix" / "train.json"]
        paths += ["--val_data_path", tiny_workspace / "rec_data" / "movie" / "valid.json", "--output_dir", folder]
        return ["ins_tuning.py", "--base_model", base, *paths, *QUICK, *flags]

    return words


@pytest.fixture(scope="session")
def sweep_words(tiny_llama, tiny_workspace):
    """The same of rec_tuning.py."""

    def words(folder, *flags, base=tiny_llama):
        data = tiny_workspace / "rec_data" / "movie"
        paths = ["--train_data_path", data / "train.json", "--val_data_path", data / "valid.json"]
        return ["rec_tuning.py", "--base_model", base, *paths, "--output_dir", folder, *QUICK, *flags]

    return words


@pytest.fixture(scope="session")
def instruct(run_script, stage_words):
    """`instruct(folder, *flags)`: ins_tuning.py; returns (status, out, err)."""
    return lambda folder, *flags, **base: run_script(*stage_words(folder, *flags, **base))


@pytest.fixture(scope="session")
def few_shot(run_script, sweep_words):
    """`few_shot(folder, *flags)`: rec_tuning.py; returns (status, out, err)."""
    return lambda folder, *flags, **base: run_script(*sweep_words(folder, *flags, **base))


@pytest.fixture(scope="session")
def evaluate(run_script, tiny_llama, tiny_workspace):
    """`evaluate(adapter, *flags)`: evaluate.py on the movie test rows; returns (status, out, err)."""

    def run(adapter, *flags, base=tiny_llama):
        test = tiny_workspace / "rec_data" / "movie" / "test.json"
        words = ["--base_model", base, "--lora_weights", adapter, "--test_data_path", test, "--device", "cpu"]
        return run_script("evaluate.py", *words, *flags)

    return run
