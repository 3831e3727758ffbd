"""The search for a recipe, benchmarks/search_recipe.py.

1. Its rule: which cells each round runs, given the AUCs before it.
2. A whole search on a tiny model: every cell is a complete run on the source's rows alone; both tables hold what their
   files say, beside the untuned model and the rule that counts likes; the recipe has the highest mean.
3. The same command again runs nothing twice; other rows in the same folder are refused.
4. A script that fails is one line with its reason; one that is running when the search is stopped is stopped too.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import search_recipe
from benchmarks.search_recipe import Cell, crossed, decided, one_at_a_time, planned_rows, start
from tests.conftest import REPOSITORY
from tlrec.compare import compare
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import read_checked
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import InputError
from tlrec.evaluation.results import read_metrics
from tlrec.runs import read_run

# ---------------------------------------------------------------------------------------------------------- 1. the rule


def test_round_1_changes_one_setting_at_a_time():
    cells = one_at_a_time(384)
    assert cells[0] == start(384) == Cell(1e-3, "all-linear", 16, 0.0, 8, 384, 0)
    changes = [
        {name: getattr(cell, name) for name in search_recipe.SETTINGS if getattr(cell, name) != getattr(cells[0], name)}
        for cell in cells[1:]
    ]
    assert changes == [
        {"learning_rate": 3e-4},
        {"learning_rate": 3e-3},
        {"targets": "q v"},
        {"batch": 32},
        {"batch": 128},
        {"prompt_weight": 0.05},
        {"prompt_weight": 1.0},
        {"rank": 32},
    ]


def test_rounds_2_and_3_follow_the_aucs(capsys):
    first = one_at_a_time(10)
    #                          start lr3e-4 lr3e-3 qv   b32  b128  p.05  p1   r32
    aucs = dict(zip(first, [0.60, 0.50, 0.62, 0.40, 0.58, 0.30, 0.59, 0.20, 0.55]))
    second = crossed(aucs, 10)  # of the settings, the best three: 3e-3 (0.62), prompt 0.05 (0.59), batch 32 (0.58)
    assert [(c.learning_rate, c.batch, c.prompt_weight, c.targets, c.rank) for c in second] == [
        (3e-3, 16, 0.05, "all-linear", 8),
        (3e-3, 32, 0.0, "all-linear", 8),
        (1e-3, 32, 0.05, "all-linear", 8),
        (3e-3, 32, 0.05, "all-linear", 8),
    ]
    aucs |= dict(zip(second, [0.61, 0.63, 0.1, 0.1]))
    third = decided(aucs, 40)
    assert [(c.learning_rate, c.batch, c.rows, c.seed) for c in third] == [
        (1e-3, 16, 40, 0),
        (1e-3, 16, 40, 1),
        (3e-3, 32, 40, 0),  # 0.63
        (3e-3, 32, 40, 1),
        (3e-3, 16, 40, 0),  # 0.62
        (3e-3, 16, 40, 1),
    ]
    args = search_recipe.parse_arguments(["--output_dir", "x", "--rows", "10", "--final_rows", "40"])
    assert planned_rows(args) == sum(cell.rows for cell in first + second + third)


def test_a_cell_is_told_in_flags_that_the_tuner_knows():
    flags = " ".join(map(str, Cell(3e-4, "q v", 32, 0.05, 32, 1000, 1).flags()))
    assert flags == (
        "--learning_rate 0.0003 --batch_size 32 --seed 1 --prompt_loss_weight 0.05 --lora_r 32 --lora_alpha 64 "
        "--lora_dropout 0 --num_epochs 1 --warmup_steps 4 --eval_steps 32 --share_prefix --max_train_samples 1000"
    )
    assert "--lora_target_modules all-linear" in " ".join(map(str, start(1000).flags()))


# ------------------------------------------------------------------------------------------------------ 2. a whole search


@pytest.fixture(scope="module")
def finished(tiny_llama, run_script, tmp_path_factory):
    """(arguments, folder, scripts that were called) of a search on a tiny model, its scripts run in this process."""
    root = tmp_path_factory.mktemp("search")
    sizes = {name: dict.fromkeys(splits, 2) for name, (_, splits) in FILES.items()}
    sizes["netflix"]["train"] = 90
    make_workspace(root, 0, sizes)
    folder = root / "a search"
    arguments = ["--output_dir", str(folder), "--base_model", str(tiny_llama), "--device", "cpu"]
    arguments += ["--records", str(root / "instruction_data" / "netflix" / "train.json")]
    arguments += ["--rows", "20", "--final_rows", "24", "--val_rows", "30"]
    called = []

    def call(log, script, *rest):
        status, out, err = run_script(script, *rest)
        assert status == 0, err
        called.append((script, "complete already" in out))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_recipe, "call", call)
        search_recipe.main(arguments)
    return arguments, folder, called


def table(folder):
    with open(folder / "cells.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_cell_is_a_complete_run_on_source_rows(finished):
    _, folder, called = finished
    files = {name: read_checked(folder / "data" / f"{name}.json") for name in ("train", "valid")}
    _, (overlap,) = measure_overlap(files)
    assert (overlap.users, overlap.rows) == (0, 0)
    rows = table(folder)
    assert [row["round"] for row in rows] == ["1"] * 9 + ["2"] * 4 + ["3"] * 6
    assert [script for script, _ in called].count("ins_tuning.py") == 19
    for row in rows:
        cell = Cell(
            float(row["learning_rate"]),
            row["targets"],
            int(row["batch"]),
            float(row["prompt_weight"]),
            int(row["rank"]),
            int(row["rows"]),
            int(row["seed"]),
        )
        run, metrics = read_run(folder / "cells" / cell.name), read_metrics(folder / "cells" / cell.name)
        given = run["arguments"]
        assert (given["learning_rate"], given["batch_size"], given["lora_r"]) == (
            cell.learning_rate,
            cell.batch,
            cell.rank,
        )
        assert (given["prompt_loss_weight"], given["max_train_samples"], given["seed"]) == (
            cell.prompt_weight,
            cell.rows,
            cell.seed,
        )
        config = json.loads((folder / "cells" / cell.name / "adapter_config.json").read_text())
        modules = 2 if cell.targets == "q v" else 7
        assert (len(config["target_modules"]), config["r"], config["lora_alpha"]) == (modules, cell.rank, 2 * cell.rank)
        assert run["results"]["best_step"] == int(row["steps"]) == cell.steps  # the last one: nothing is chosen
        assert [run["data"][name]["rows"] for name in ("train", "valid")] == [90 - len(files["valid"][0]), 16]
        assert metrics["run"]["data"]["test"]["path"] == str(folder / "data" / "valid.json")
        assert float(row["auc"]) == metrics["auc"] and float(row["log_loss"]) == metrics["log_loss"]
        assert [float(row["low"]), float(row["high"])] == metrics["intervals"]["auc"]["users"]
        assert int(row["validation_rows"]) == metrics["n"] == len(files["valid"][0])
        assert int(row["threads"]) >= 1 and "cores" in row["hardware"] and float(row["rows_per_second"]) > 0
    first, second = (folder / "cells" / cell.name for cell in one_at_a_time(20)[:2])
    difference = compare(second, first)
    assert rows[0]["minus_start"] == "" and float(rows[1]["minus_start"]) == difference["difference"]
    assert [float(rows[1]["minus_low"]), float(rows[1]["minus_high"])] == difference["interval"]["users"]


@pytest.mark.slow
def test_the_table_says_what_no_tuning_gives(finished):
    _, folder, _ = finished
    untuned = read_metrics(folder / "untuned")
    assert untuned["run"]["adapter"] is None
    lines = (folder / "table.md").read_text().splitlines()
    assert len(lines) == 2 + 2 + 19 and len({line.count("|") for line in lines}) == 1
    assert "the rule that counts likes" in lines[2] and f" {untuned['floors']['history']['auc']:.4f} " in lines[2]
    assert "untuned" in lines[3] and f" {untuned['auc']:.4f} " in lines[3]
    assert lines[4].startswith("| 1 | 0.001 | all-linear | 16 | 0 | 8 | 20 | 2 | 0 | ")


@pytest.mark.slow
def test_again_it_only_reads(finished, run_script, monkeypatch, capsys):
    arguments, folder, _ = finished
    before = (folder / "cells.csv").read_bytes()
    called = []

    def call(log, script, *rest):
        status, out, _ = run_script(script, *rest)
        called.append((script, status, out.startswith("complete already")))

    monkeypatch.setattr(search_recipe, "call", call)
    search_recipe.main(arguments)
    assert called == [("ins_tuning.py", 0, True)] * 19
    assert (folder / "cells.csv").read_bytes() == before
    best = search_recipe.means([{**row, "round": int(row["round"]), "auc": float(row["auc"])} for row in table(folder)])
    assert len(best) == 3 and best[0][0] == max(mean for mean, _ in best)
    out = capsys.readouterr().out
    assert f"mean AUC over seeds {best[0][0]:.4f}: learning_rate" in out and "; 0 min left" in out
    for flags, message in (
        (["--val_rows", "20"], "was cut out of other records or with another --val_rows"),
        (["--rows", "80"], "80 rows for a cell: "),
    ):
        with pytest.raises(InputError, match=message):
            search_recipe.main([*arguments, *flags])


# ------------------------------------------------------------------------------------------------------ 4. what goes wrong


def test_a_script_that_fails_is_one_line(tmp_path):
    log = tmp_path / "a" / "cell.log"
    with pytest.raises(InputError) as error:
        search_recipe.call(log, "instruction_data/split_users.py", tmp_path / "none.json", "--output", tmp_path / "new")
    assert str(error.value).startswith(f"instruction_data/split_users.py: {tmp_path}/none.json: ")
    assert str(error.value).endswith(f"(all of it: {log})") and log.read_text().count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_stopping_the_search_stops_the_script(tmp_path, number):
    fifo = tmp_path / "records.json"
    os.mkfifo(fifo)  # the script waits for records that never come
    command = [sys.executable, "benchmarks/search_recipe.py", "--output_dir", tmp_path / "search", "--records", fifo]
    command += ["--base_model", "base_model/pocket-llama"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below a shell's background job
    )
    log = tmp_path / "search" / "data.log"
    until = time.monotonic() + 60
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(timeout=90) == 130
    assert process.stderr.read().startswith("interrupted: ")
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(process.pid, 0)
