"""Two processes over gloo on the CPU, as the launchers start them, against one.

1. The same validation AUC at every step, to rounding the same adapter, though the rows do not divide evenly, are grouped
   by length over the whole batch, and share their prefix.
2. evaluate.py shares the rows and gives the same predictions, in order.
3. One process writes and speaks; a mistake is said once, before the others are started.
4. Ranking shares the candidates and gives the same ranks and the same ranking.json, and goes on where it was stopped.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.tuned import furthest, predictions, read, weights

pytestmark = pytest.mark.slow

QUICK = ["--batch_size", 8, "--micro_batch_size", 2, "--num_epochs", 2, "--warmup_steps", 0, "--learning_rate", 1e-2]
RANK = ["--rank", "full", "--max_rank_rows", "5"]
QUICK += ["--eval_steps", 1, "--lora_dropout", 0, "--max_train_samples", 13]  # masks differ between processes
QUICK += ["--group_by_length", "--share_prefix"]


@pytest.fixture(scope="module")
def both(tiny_llama, tiny_workspace, instruct, evaluate, tmp_path_factory):
    """Folders of the same stage and evaluation by one process and by two, and the launcher's standard output."""
    root = tmp_path_factory.mktemp("two processes") / "root"
    shutil.copytree(tiny_workspace, root)
    environment = os.environ | {"ROOT_PATH": str(root), "BASE_MODEL": str(tiny_llama), "STAGES": "source"}
    environment["EXP_NAME"] = "alpaca_instrument"
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "EVALUATE_ARGS": " ".join(RANK)}
    done = subprocess.run(
        ["bash", REPOSITORY / "shell" / "zero_shot.sh", "cpu:2", "movie", "netflix", *map(str, QUICK)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    one, data, target = root / "one", root / "rec_data" / "movie", ["--target", "movie"]
    status, _, err = instruct(one, *target, "--source", "netflix", *QUICK)
    assert status == 0, err
    two = root / "instruction_model" / "movie" / "alpaca_instrument"
    train = ["--train_data_path", data / "train.json", "--output_dir", root / "scores"]
    status, _, err = evaluate(two, *target, *train, *RANK)
    assert status == 0, err
    return one, two, root / "scores", done.stdout


def test_tuning_sees_the_same_batches(both):
    one, two, _, _ = both
    runs = [read(folder)["results"] for folder in (one, two)]
    assert [run["processes"] for run in runs] == [1, 2]
    histories = [run["history"] for run in runs]
    assert [entry["step"] for entry in histories[0]] == [1, 2, 3, 4]
    assert [entry["eval_auc"] for entry in histories[0]] == [entry["eval_auc"] for entry in histories[1]]
    for entry, other in zip(*histories):
        assert entry["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)
    assert furthest(weights(one), weights(two)) < 1e-5


def test_scoring_is_shared_and_comes_back_in_order(both):
    _, two, scores, _ = both
    rows = [predictions(folder) for folder in (two, scores)]
    assert len(rows[0]) == len(rows[1]) == 24
    for row, other in zip(*rows):
        assert row["p_yes"] == pytest.approx(other["p_yes"], abs=1e-6)
        assert row["label"] == other["label"]
    assert read(two, "metrics.json")["auc"] == read(scores, "metrics.json")["auc"]


def test_one_process_speaks(both):
    _, two, _, out = both
    assert out.count(f"adapter: {two}\n") == 1
    assert out.count("===== auc:") == 1
    assert out.count("train: 13 rows") == out.count("shared prefix: ") == 1
    # two processes; and one before, with --check_only
    assert out.count("ranking: 5 of ") == 2 and out.count("ranking: candidates packed into rows") == 1


def test_ranking_is_shared_and_comes_out_the_same(both, tiny_llama, tmp_path):
    _, two, scores, _ = both
    assert (two / "ranks.jsonl").read_bytes() == (scores / "ranks.jsonl").read_bytes()
    rankings = [
        {key: value for key, value in read(folder, "ranking.json").items() if key != "run"} for folder in (two, scores)
    ]
    assert rankings[0] == rankings[1] and rankings[0]["rows"] == 5
    stopped = shutil.copytree(two, tmp_path / "stopped")
    lines = (stopped / "ranks.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "ranks.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:9])
    (stopped / "ranking.json").unlink()
    data = two.parent.parent.parent / "rec_data" / "movie"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [REPOSITORY / "evaluate.py", "--base_model", tiny_llama, "--device", "cpu", "--lora_weights", stopped]
    command += ["--test_data_path", data / "test.json", "--train_data_path", data / "train.json", *RANK]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert (stopped / "ranks.jsonl").read_bytes() == b"".join(lines)
    assert read(stopped, "ranking.json")["mrr"] == rankings[0]["mrr"]


def test_a_mistake_is_said_once(tiny_llama, tiny_workspace):
    environment = os.environ | {"ROOT_PATH": str(tiny_workspace), "BASE_MODEL": str(tiny_llama), "STAGES": "source"}
    environment["EXP_NAME"] = "alpaca_instrument"
    command = ["bash", REPOSITORY / "shell" / "zero_shot.sh", "cpu:2", "movie", "netflix", "--batch_size", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PYTHON": sys.executable})
    assert done.returncode == 2
    assert done.stderr == "error: --batch_size 7 is not a multiple of --micro_batch_size 32\n"
