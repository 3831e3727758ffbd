"""The search for a recipe, benchmarks/search_recipe.py.

1. Its rule: which cells each round runs, given the AUCs before it.
2. A whole search on a tiny model: every cell is a complete run on the source's rows alone; both tables hold what their
   files say, beside what no tuning gives; few-shot flags are searched from an adapter, with shots of the source.
3. The same command again runs nothing twice; other rows in the same folder are refused.
4. A script that fails is one line with its reason; one that is running when the search is stopped is stopped too.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from benchmarks import search_recipe
from benchmarks.search_recipe import crossed, decided, one_at_a_time
from tests.conftest import REPOSITORY
from tests.support.models import make_adapter
from tlrec.compare import compare
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import read_checked
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import InputError
from tlrec.evaluation.results import read_metrics
from tlrec.runs import read_run

# ---------------------------------------------------------------------------------------------------------- 1. the rule


def test_round_1_changes_one_setting_at_a_time():
    first, *others = (cell.settings("source") for cell in one_at_a_time("source", 384))
    assert first == {"learning_rate": 1e-3, "targets": "all-linear", "batch": 16, "prompt_weight": 0.0, "rank": 8}
    changes = [tuple(set(cell.items()) - set(first.items())) for cell in others]
    expected = [("learning_rate", 3e-4), ("learning_rate", 3e-3), ("targets", "q v"), ("batch", 32), ("batch", 128)]
    expected += [("prompt_weight", 0.05), ("prompt_weight", 1.0), ("rank", 32)]
    assert changes == [(change,) for change in expected]


def test_rounds_2_and_3_follow_the_aucs():
    first = one_at_a_time("source", 10)
    #                          start lr3e-4 lr3e-3 qv   b32  b128  p.05  p1   r32
    aucs = dict(zip(first, [0.60, 0.50, 0.62, 0.40, 0.58, 0.30, 0.59, 0.20, 0.55]))
    second = crossed("source", 10, aucs)  # the best three settings: 3e-3 (0.62), prompt 0.05 (0.59), batch 32 (0.58)
    assert [cell.values for cell in second] == [
        (3e-3, "all-linear", 16, 0.05, 8),
        (3e-3, "all-linear", 32, 0.0, 8),
        (1e-3, "all-linear", 32, 0.05, 8),
        (3e-3, "all-linear", 32, 0.05, 8),
    ]
    aucs |= dict(zip(second, [0.61, 0.63, 0.1, 0.1]))
    third = decided("source", 40, aucs)
    assert {cell.rows for cell in third} == {40} and [cell.seed for cell in third] == [0, 1] * 3
    found = [(cell.values[0], cell.values[2]) for cell in third[::2]]
    assert found == [(1e-3, 16), (3e-3, 32), (3e-3, 16)]  # the start, 0.63 and 0.62


# ------------------------------------------------------------------------------------------------------ 2. a whole search

FEWER = {
    "source": {"learning_rate": (1e-3, 3e-4), "targets": ("all-linear", "q v")},
    "few-shot": {"learning_rate": (5e-4, 1e-3), "epochs": (1, 2)},
}


@pytest.fixture(scope="module")
def searching(tiny_llama, run_script, tmp_path_factory):
    """searching(folder name, *flags) -> (folder, [(script, was complete already)]): a search with FEWER settings and one
    finalist on a tiny model, its scripts run in this process."""
    root = tmp_path_factory.mktemp("search")
    sizes = {name: dict.fromkeys(splits, 2) for name, (_, splits) in FILES.items()}
    sizes["netflix"]["train"] = 90
    make_workspace(root, 0, sizes)

    def run(name, *flags, seeds=(0,)):
        called = []

        def call(log, script, *rest):
            status, out, err = run_script(script, *rest)
            assert status == 0, err
            called.append((script, "complete already" in out))

        arguments = ["--output_dir", str(root / name), "--base_model", str(tiny_llama), "--device", "cpu"]
        arguments += ["--records", str(root / "instruction_data" / "netflix" / "train.json"), "--val_rows", "30"]
        with pytest.MonkeyPatch.context() as patch:
            for attribute, value in (("call", call), ("SETTINGS", FEWER), ("FINALISTS", 1), ("SEEDS", seeds)):
                patch.setattr(search_recipe, attribute, value)
            search_recipe.main([*arguments, *flags])
        return root / name, called

    return run


@pytest.mark.slow
def test_every_cell_is_a_complete_run_on_source_rows(searching, capsys):
    flags = ["--rows", "16", "--final_rows", "20"]
    folder, called = searching("a search", *flags, seeds=(0, 1))
    out = capsys.readouterr().out
    files = {name: read_checked(folder / "data" / f"{name}.json") for name in ("train", "valid")}
    _, (overlap,) = measure_overlap(files)
    assert (overlap.users, overlap.rows) == (0, 0)
    table = pd.read_csv(folder / "cells.csv")
    assert table["round"].tolist() == [1] * 3 + [2] + [3] * 4
    assert [script for script, _ in called].count("ins_tuning.py") == 8
    for row in table.itertuples():
        targets = row.targets.replace(" ", "")
        name = f"learning_rate-{row.learning_rate}_targets-{targets}_rows-{row.rows}_seed-{row.seed}"
        run, metrics = read_run(folder / "cells" / name), read_metrics(folder / "cells" / name)
        given, config = run["arguments"], json.loads((folder / "cells" / name / "adapter_config.json").read_text())
        assert (given["learning_rate"], given["batch_size"]) == (row.learning_rate, 16)
        assert (given["prompt_loss_weight"], given["max_train_samples"]) == (0, row.rows)
        modules = 2 if row.targets == "q v" else 7
        assert (len(config["target_modules"]), config["r"], config["lora_alpha"]) == (modules, 8, 16)
        assert run["results"]["best_step"] == -(-row.rows // 16)  # the last one: nothing is chosen
        assert [run["data"][name]["rows"] for name in ("train", "valid")] == [90 - len(files["valid"][0]), 16]
        assert metrics["run"]["data"]["test"]["path"] == str(folder / "data" / "valid.json")
        expected = [metrics["auc"], *metrics["intervals"]["auc"]["users"], metrics["log_loss"]]
        assert [row.auc, row.low, row.high, row.log_loss] == pytest.approx(expected, abs=1e-12)
    cells = [folder / "cells" / line.split(": ")[1] for line in out.splitlines() if line.startswith("round 1")]
    difference = compare(cells[1], cells[0])["difference"]
    found = table.loc[1, ["minus_start", "minus_low", "minus_high"]].tolist()
    assert found == pytest.approx([difference["auc"], *difference["intervals"]["auc"]["users"]], abs=1e-12)
    assert pd.isna(table["minus_start"][0])
    best = table[table["round"] == 3].groupby(["learning_rate", "targets"])["auc"].mean().max()
    assert f"{best:.6f}" in out.partition("the best first:")[2].splitlines()[2]
    untuned, lines = read_metrics(folder / "start"), (folder / "table.md").read_text().splitlines()
    assert len(lines) == 2 + 2 + 8 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| history baseline |") and f" {untuned['floors']['history']['auc']:.4g} " in lines[2]
    assert lines[3].startswith("| untuned |") and f" {untuned['auc']:.4g} " in lines[3]

    with pytest.raises(InputError, match="was cut out of other records or with another --val_rows"):
        searching("a search", "--val_rows", "20", *flags)
    with pytest.raises(InputError, match="80 rows for a cell: "):
        searching("a search", *flags, "--rows", "80")


@pytest.mark.slow
def test_few_shot_flags_from_an_adapter(searching, tiny_llama, tmp_path):
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = make_adapter(tmp_path / "adapter", tiny_llama, target_modules=linear, lora_dropout=0.0)
    folder, called = searching("few shots", "--start_adapter", str(adapter), "--rows", "16", "--final_rows", "16")
    table = pd.read_csv(folder / "cells.csv")
    assert [script for script, _ in called].count("rec_tuning.py") == len(table) == 3 + 1 + 2
    for row in table.itertuples():
        cell = folder / "cells" / f"learning_rate-{row.learning_rate}_epochs-{row.epochs}_rows-16_seed-{row.seed}"
        run = read_run(cell)
        assert run["script"] == "rec_tuning.py" and run["arguments"]["sample"] == 16
        assert run["arguments"]["resume_from_checkpoint"] == str(adapter)
        assert run["results"]["best_step"] == row.epochs
    assert "| start adapter |" in (folder / "table.md").read_text()

    before = (folder / "cells.csv").read_bytes()
    again = searching("few shots", "--start_adapter", str(adapter), "--rows", "16", "--final_rows", "16")[1]
    assert again == [("rec_tuning.py", True)] * 6  # it only reads
    assert (folder / "cells.csv").read_bytes() == before


# ------------------------------------------------------------------------------------------------------ 4. what goes wrong


def test_a_script_that_fails_is_one_line(tmp_path):
    log = tmp_path / "a" / "cell.log"
    with pytest.raises(InputError) as error:
        search_recipe.call(log, "instruction_data/split_users.py", tmp_path / "none.json", "--output", tmp_path / "new")
    assert str(error.value).startswith(f"instruction_data/split_users.py: {tmp_path}/none.json: ")
    assert str(error.value).endswith(f"(all of it: {log})") and log.read_text().count("\n") == 1


DRIVER = """
import sys
from pathlib import Path
from benchmarks import search_recipe
from tlrec.errors import one_line_errors

folder = Path(sys.argv[1])
search_recipe.prepare = lambda args: search_recipe.call(folder / "log", str(folder / "waits.py"))
with one_line_errors():
    search_recipe.main(["--output_dir", str(folder), "--base_model", "base_model/pocket-llama"])
"""


@pytest.mark.slow
def test_stopping_the_search_stops_the_script(tmp_path):
    (tmp_path / "waits.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(300)\n")
    command, own_group = [sys.executable, "-c", DRIVER, tmp_path], {"start_new_session": True}
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **own_group)
    until = time.monotonic() + 90
    while time.monotonic() < until and not ((tmp_path / "log").exists() and (tmp_path / "log").read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) == 130
    assert process.stderr.read().startswith("interrupted: ")
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        os.killpg(process.pid, 0)
