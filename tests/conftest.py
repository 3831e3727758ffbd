"""Shared fixtures: real records where they are at hand, small models and workspace, scripts run in this process."""

import gc
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tqdm import tqdm

from tlrec.errors import one_line_errors

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of two layers only lose by threads

REPOSITORY = Path(__file__).resolve().parent.parent
# Scripts that tests start import this checkout's tlrec, whichever one is installed
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))

# Hypothesis: the same few examples in every run, and with --hypothesis-profile=long many, other ones each time
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile(
    "normal", max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW
)
settings.register_profile(
    "long", max_examples=1000, deadline=None, database=None, suppress_health_check=SLOW, print_blob=True
)
settings.load_profile("normal")


def pytest_collection_finish(session):
    gc.freeze()  # scripts collect garbage, which takes most of a second where all these libraries are looked through


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real records (SHARED_DATA, by default beside the repository); tests skip where it is absent."""
    folder = Path(os.environ.get("SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rec_data" / "movie" / "test.json").exists():
        pytest.skip(f"no real records at {folder}; set SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a two-layer LLaMA with random weights and a SentencePiece tokenizer. Read only."""
    from tests.support.models import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_adapter(tiny_llama, tmp_path_factory):
    """Folder of an adapter on `tiny_llama` in the published configuration, as PEFT saves it. Read only."""
    from tests.support.models import make_adapter

    return make_adapter(tmp_path_factory.mktemp("tiny-adapter"), tiny_llama)


@pytest.fixture(scope="session")
def pieces():
    """The tokenizer of `tiny_llama` as SentencePiece itself reads it: an oracle for token ids."""
    import sentencepiece

    from tests.support.models import sentencepiece_model

    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory):
    """A workspace of a few dozen fictional records, below a path that contains a space. Read only."""
    from tlrec.demo.workspace import make_workspace

    root = tmp_path_factory.mktemp("workspace") / "tiny work space"
    sizes = {
        "netflix": {"train": 16, "valid": 12},
        "amazon-book": {"train": 12, "valid": 12},
        "movie": {"train": 40, "valid": 12, "test": 24},
        "book": {"train": 12, "valid": 12, "test": 12},
    }
    make_workspace(root, 0, sizes)
    return root


@pytest.fixture(scope="session")
def run_script():
    """Call `run_script("evaluate.py", "--flag", value, ...)`: the script's main in this process, as its own command
    line would run it. Returns (exit status, standard output, standard error)."""

    def run(script, *arguments):
        spec = importlib.util.spec_from_file_location(f"script_{Path(script).stem}", REPOSITORY / script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        out, err, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", [script, *map(str, arguments)])
            if "peft" in sys.modules:  # its model card of every checkpoint takes a tenth of a second
                patch.setattr("peft.PeftModel.create_or_update_model_card", lambda *_: None)
            try:
                with one_line_errors():
                    module.main()
            except SystemExit as stop:
                status = stop.code
            finally:
                for bar in list(tqdm._instances):  # of a run that was stopped, whose process would be gone now
                    bar.close()
        return status, out.getvalue(), err.getvalue()

    return run


HOLD = """
import sys
from tlrec.runs.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"; ends when its standard input does."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout.readline() == "held\n"
        yield process


@pytest.fixture(scope="session")
def merged_folder(run_script, tiny_llama, tiny_adapter, tmp_path_factory):
    """Folder of `tiny_llama` and `tiny_adapter` merged in float32 by export_model.py. Read only."""
    folder = tmp_path_factory.mktemp("merged") / "movie"
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--output_dir", folder, "--device", "cpu"]
    assert run_script("base_model/export_model.py", *flags, "--dtype", "float32")[0] == 0
    return folder


@pytest.fixture(scope="session")
def client_folder(merged_folder, tmp_path_factory):
    """What a client of a served `merged_folder` has of it: frame and tokenizer, not the weights. Read only."""
    weights = shutil.ignore_patterns("model*", "generation_config.json", "run.json")
    return shutil.copytree(merged_folder, tmp_path_factory.mktemp("client") / "movie", ignore=weights)


# --------------------------------------------------------------------------- the three scripts on the tiny workspace

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
