"""The report over a workspace: python -m tlrec.report ROOT.

1.  Runs are found by run.json and metrics.json, through links, whatever their folders are called.
2.  Method and shots are read from the chain of runs; runs with other flags stand apart.
3.  A cell holds mean and standard deviation over seeds; missing and repeated seeds are named.
4.  Noise is judged by the paired interval over users, against the best floor of the metric and against the best cell.
5.  results.csv has a row for each evaluation; results.md and index.html have the same tables. Same workspace, same bytes.
6.  index.html stands alone: figures inside, no link out, words for every figure, text escaped.
7.  Every cell says what selected it, whatever the path of the file: target rows, source rows, nothing.
8.  Published numbers stand beside the published rows only, known by their content.
9.  Damaged, stale, foreign and unfinished runs are listed, each in one line, and fatal to nothing else; names have no
    meaning as HTML, Markdown or TeX.
10. Checks: shared rows and users, target validation in zero-shot, one-sided labels, cut prompts, silent models, scoring
    settings that differ.
11. One-class test data is reported as not defined; an empty folder is one line.
"""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.synthetic import evaluate, make_data, make_records, score, tune
from tlrec.data.records import read_records, write_records
from tlrec.errors import InputError
from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import auc, uauc
from tlrec.report import cells, checks, collect, datafiles, tables
from tlrec.report.__main__ import main

HISTORY = [(10, 0.6), (20, 0.66), (30, 0.64)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """base model alone; "source" with zero-shot, 16 shots x seeds 0 1 2, 64 shots x seeds 0 1; and a baseline."""
    root = tmp_path_factory.mktemp("work space")
    paths = make_data(root)
    test, train = read_records(paths["test"]), read_records(paths["train"])
    evaluate(root / "z", paths["test"], test, *score(test, 0, 1), train_records=train)
    source = tune(root / "anything", paths, "source", history=HISTORY, source="netflix", learning_rate=3e-4)
    evaluate(source, paths["test"], test, *score(test, 0.3, 2), source, train)
    for shots, seed in ((16, 0), (16, 1), (16, 2), (64, 0), (64, 1)):
        folder = tune(root / "deep" / f"run{shots}{seed}", paths, "few-shot", source, shots, seed, history=HISTORY)
        evaluate(folder, paths["test"], test, *score(test, shots / 20, shots + seed), folder, train)
    write_baseline(root / "baselines" / "x", paths["test"], test)
    return root


def write_baseline(folder, test_path, records):
    """What a classical baseline leaves."""
    evaluate(folder, test_path, records, *score(records, 0.2, 77))
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["run"] |= {
        "stage": "baseline",
        "method": "item-kNN",
        "shots": -1,
        "arguments": {"k": 20},
        "base_model": None,
    }
    path.write_text(json.dumps(metrics))


@pytest.fixture
def copy(workspace, tmp_path):
    """A copy of the workspace to damage."""
    return shutil.copytree(workspace, tmp_path / "copy")


def gather(root):
    """(the only TestSet, Workspace, DataFiles) of a folder."""
    found, files = collect.collect(root), datafiles.DataFiles(root)
    (test_set,) = cells.test_sets(found.evaluations, files, found.problems)
    return test_set, found, files


def cell_of(test_set, method, shots):
    (cell,) = [cell for cell in test_set.cells if (cell.method, cell.shots) == (method, shots)]
    return cell


def report(monkeypatch, root, *words):
    monkeypatch.setattr(sys, "argv", ["report", str(root), *map(str, words)])
    main()


def found(root, level):
    """{subject: texts} of the checks of a level."""
    test_set, _, files = gather(root)
    table = checks.check([test_set], files)
    return table[table[""] == level].groupby("What")["Found"].agg("\n".join).to_dict()


# --------------------------------------------------------------------------------------------------- collect, cells


def test_cells(workspace):
    test_set, found, _ = gather(workspace)
    assert found.problems == [] and len(found.evaluations) == 8 and len(found.tunings) == 6
    assert [(cell.method, cell.shots, cell.seeds) for cell in test_set.cells] == [
        ("base model", 0, [None]),
        ("source netflix", 0, [0]),
        ("source netflix", 16, [0, 1, 2]),
        ("source netflix", 64, [0, 1]),
        ("item-kNN", -1, [None]),
    ]
    cell = cell_of(test_set, "source netflix", 16)
    aucs = [evaluation.metrics["auc"] for evaluation in cell.evaluations]
    assert cell.numbers["auc"] == pytest.approx(statistics.mean(aucs))
    assert cell.spread["auc"] == pytest.approx(statistics.stdev(aucs))
    assert cell_of(test_set, "source netflix", 64).missing_seeds == [2] and cell.missing_seeds == []
    assert cell_of(test_set, "source netflix", 0).spread == {}


def test_noise_is_the_paired_interval_over_users(workspace):
    test_set, _, _ = gather(workspace)
    cell, best = cell_of(test_set, "source netflix", 16), cell_of(test_set, "source netflix", 64)
    predictions = cell.evaluations[0].predictions
    scores = [evaluation.predictions["score"] for evaluation in cell.evaluations]
    for metric, name in ((auc, "auc"), (uauc, "uauc")):
        floors = {floor: metric(test_set.labels, s, predictions["user"]) for floor, s in predictions["floors"].items()}
        assert {floor: one[name] for floor, one in test_set.floors.items()} == floors
        assert test_set.best_floor[name] == max(floors, key=floors.get)
        columns = [*scores, predictions["floors"][test_set.best_floor[name]]]
        estimates = jackknife(metric, test_set.labels, columns, predictions["user"])
        difference = cell.to_floor[name]
        assert difference["intervals"][name]["users"] == pytest.approx(estimates.interval([0, 1, 2], [3]))
        assert difference[name] == pytest.approx(cell.numbers[name] - max(floors.values()))
        assert cell.numbers["intervals"][name]["users"] == pytest.approx(estimates.interval([0, 1, 2]))
    assert test_set.best is best and best.to_best["intervals"]["auc"]["users"] is None
    mean, sd = best.numbers["auc"], best.spread["auc"]
    assert tables.cell_text(best, test_set) == f"{mean:.3f} ± {sd:.3f} (2) ▲ ★ [150 target rows]"
    base = cell_of(test_set, "base model", 0)
    assert tables.cell_text(base, test_set) == f"{base.numbers['auc']:.3f} (1) ▼ [nothing]"
    section = tables.test_section(test_set, [])
    assert "tells generous users from strict ones, but not what a user likes" in section.paragraphs[2]
    low, high = cell.numbers["intervals"]["auc"]["users"]
    details = section.tables["Every cell, mean over its seeds (log-odds: AUC in that order)"].set_index(
        ["Method", "Shots"]
    )
    row = details.loc[("source netflix", "16 shots")]  # the spread over seeds stands beside the interval over users
    assert row["auc, ± over seeds"] == f"{cell.spread['auc']:.3f}"
    assert row["auc, 95 % over users"] == f"{low:.3f} to {high:.3f}"
    for metric in ("auc", "uauc"):  # each difference has its own interval
        (low, high), floor = cell.to_floor[metric]["intervals"][metric]["users"], test_set.best_floor[metric]
        assert row[f"{metric} - {floor}, 95 % over users"] == f"{low:+.3f} to {high:+.3f}"


def test_other_flags_stand_apart_and_repeated_seeds_are_named(copy):
    paths = {name: copy / "rec_data/movie" / f"{name}.json" for name in ("train", "valid", "test")}
    test = read_records(paths["test"])
    for name, rate in (("again", 1e-4), ("fast", 5e-4)):
        folder = tune(copy / name, paths, "few-shot", copy / "anything", 16, 0, learning_rate=rate)
        evaluate(folder, paths["test"], test, *score(test, 1, 5), folder)
    test_set, _, files = gather(copy)
    names = {cell.method: cell for cell in test_set.cells if cell.shots == 16}
    assert len(names) == 2
    (slow,), (fast,) = ([c for m, c in names.items() if f"learning_rate {r}" in m] for r in (1e-4, 5e-4))
    assert slow.seeds == [0, 0, 1, 2] and fast.seeds == [0]
    texts = list(checks.check([test_set], files)["Found"])
    assert "more than one run with seed 0; all of them are in the mean" in texts


def test_chain_of_stages(tmp_path):
    paths = make_data(tmp_path)
    test = read_records(paths["test"])
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "adapter_model.safetensors").write_bytes(b"x")
    cot = tune(tmp_path / "a", paths, "cot", tmp_path / "theirs")
    source = tune(tmp_path / "b", paths, "source", cot, source="netflix")
    shots = tune(tmp_path / "c", paths, "few-shot", source, 16)
    for folder, adapter in ((cot, cot), (source, source), (shots, shots), (tmp_path / "d", tmp_path / "theirs")):
        evaluate(folder, paths["test"], test, *score(test, 1, 1), adapter)
    test_set, _, _ = gather(tmp_path)
    assert all("not known" in cell.selected for cell in test_set.cells)
    assert {(cell.method, cell.shots) for cell in test_set.cells} == {
        ("general adapter + cot", 0),
        ("general adapter + cot + source netflix", 0),
        ("general adapter + cot + source netflix", 16),
        (f"adapter {tmp_path / 'theirs'}", 0),
    }


def test_links_are_followed_once(workspace, tmp_path):
    (tmp_path / "work").symlink_to(workspace)
    (tmp_path / "again").symlink_to(workspace / "deep")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(collect.collect(tmp_path).evaluations) == 8


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.slow
def test_files_and_the_same_bytes_again(workspace, tmp_path, monkeypatch, capsys):
    for name in ("again", "out"):
        report(monkeypatch, workspace, "--output_dir", tmp_path / name)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "index.html",
        "results.csv",
        "results.md",
        "shots_movie.png",
        "uauc_movie.png",
        "validation.png",
    ]
    printed = capsys.readouterr().out.partition("index.html\n")[2]
    assert printed.startswith("8 evaluations on 1 test sets, 0 damaged or unfinished runs\n")
    assert "warning: movie: source netflix, 64 shots: seeds missing: 2" in printed
    assert not (workspace / "report").exists()

    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    row = rows["deep/run161"]
    metrics = json.loads((workspace / "deep/run161/metrics.json").read_text())
    assert (row["method"], row["shots"], row["seed"], row["target"]) == ("source netflix", "16", "1", "movie")
    assert float(row["auc"]) == metrics["auc"]
    assert float(row["auc_users_low"]) == metrics["intervals"]["auc"]["users"][0]
    assert float(row["floor_history_item_auc"]) == metrics["floors"]["history + item"]["auc"]
    assert float(row["uauc"]) == metrics["uauc"] and row["selected_by"] == "150 target rows"
    assert (rows["z"]["selected_by"], rows["baselines/x"]["selected_by"]) == ("nothing", "nothing")
    assert row["test_sha256"] == metrics["run"]["data"]["test"]["sha256"]
    assert rows["z"]["seed"] == "" and rows["baselines/x"]["method"] == "item-kNN"

    test_set, _, _ = gather(workspace)
    cell = cell_of(test_set, "source netflix", 16)
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert "| Method | zero-shot | 16 shots | 64 shots | all rows |" in markdown
    assert f"{cell.numbers['auc']:.3f} ± {cell.spread['auc']:.3f} (3)" in markdown
    assert f"| no training: history | {test_set.floors['history']['auc']:.3f} |" in markdown
    assert "published" not in markdown.replace("AUC as published", "")
    assert all(f"]({name})" in markdown for name in names if name.endswith(".png"))

    html = (tmp_path / "out" / "index.html").read_text()
    assert html.count('src="data:image/png;base64,') == html.count("<img ") == 3
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "<script" not in html
    assert all(len(alt) > 40 for alt in re.findall(r'<img alt="([^"]*)"', html))
    assert f"{cell.numbers['auc']:.3f} ± {cell.spread['auc']:.3f} (3)" in html


def test_published_numbers_stand_beside_the_published_rows_only(monkeypatch, shared_data, tmp_path):
    published = shared_data / "rec_data/movie/test.json"
    (tmp_path / "mine.json").write_bytes(published.read_bytes() + b"\n")
    records = read_records(published)
    evaluate(tmp_path / "a", published, records, *score(records, 1, 0))
    evaluate(tmp_path / "b", tmp_path / "mine.json", records, *score(records, 1, 0))
    report(monkeypatch, tmp_path)
    first, second = re.split("^## movie.*$", (tmp_path / "report/results.md").read_text(), flags=re.MULTILINE)[1:3]
    assert "Movie test, as published: 1000 test rows of 16 users" in first
    assert "| published: TLRec | 0.706 | 0.726 | 0.730 | 0.741 |" in first
    assert "| published: TLRec, later | 0.722 |" in first and "commit 561abcf" in first
    assert "| published: " not in second and "561abcf" not in second


@pytest.mark.parametrize("lies", ["../", "link", "copy", "reordered", "source", "test", "gone", "last"])
def test_what_selected_a_checkpoint_is_told_by_content(tmp_path, lies):
    paths = make_data(tmp_path)
    test, valid, facts = read_records(paths["test"]), paths["valid"], {}
    expected = "150 target rows"
    if lies == "../":
        valid = tmp_path / "rec_data" / "x" / ".." / "movie" / "valid.json"
        (tmp_path / "rec_data" / "x").mkdir()
    elif lies == "link":
        valid = tmp_path / "linked.json"
        valid.symlink_to(paths["valid"])
    elif lies in ("copy", "reordered"):
        valid = tmp_path / "elsewhere" / "rows.json"
        write_records(valid, read_records(paths["valid"])[:: -1 if lies == "reordered" else 1])
    elif lies in ("source", "gone"):  # in the target's folder, but not the target's rows
        valid, expected = paths["valid"].with_name("mine.txt"), "90 source rows"
        write_records(valid, make_records(users=9, seed=7))
    elif lies == "test":
        valid, expected = paths["test"], "300 test rows"
    else:
        facts, expected = {"metric_for_best_model": "last"}, "nothing"
    folder = tune(tmp_path / "run", paths | {"valid": valid}, "source", source="netflix", **facts)
    evaluate(folder, paths["test"], test, *score(test, 1, 0), folder)
    if lies == "gone":
        valid.unlink()
        expected = "90 unknown rows"
    test_set, _, files = gather(tmp_path)
    assert tables.cell_text(test_set.cells[0], test_set).endswith(f" [{expected}]")
    assert list(tables.runs([test_set])["selected_by"]) == [expected]
    said = "\n".join(checks.check([test_set], files)["Found"])
    assert ("so this is zero-shot only in its training" in said) == ("target" in expected)
    assert ("the result is of no use" in said) == (lies == "test")


# ------------------------------------------------------------------------------------------------------------- checks


def test_checks_of_a_clean_workspace(workspace):
    fine, notes = found(workspace, "ok"), found(workspace, "note")
    pair = "rec_data/movie/train.json (train) and rec_data/movie/test.json (test)"
    assert fine[pair] == "shared rows: 0; shared users: 0"
    assert re.fullmatch(r"300 test rows, 5\d\.\d% 'No\.'", fine["movie: labels"])
    selected = notes["movie: source netflix, zero-shot"]
    assert selected.startswith("checkpoints were selected by 150 target rows") and "VALID=source" in selected
    assert list(found(workspace, "warning")) == ["movie: source netflix, 64 shots"]


def test_leaks(tmp_path):
    paths = make_data(tmp_path)
    test = read_records(paths["test"])
    # the first test user's rows in training; two later windows of that user in validation
    write_records(paths["train"], read_records(paths["train"]) + test[:10])
    write_records(paths["valid"], make_records(users=5, seed=9) + test[8:10])
    source = tune(tmp_path / "run", paths, "source")
    folder = tune(tmp_path / "run2", paths, "few-shot", source, 16)
    evaluate(folder, paths["test"], test, *score(test, 1, 1), folder)
    warnings = found(tmp_path, "warning")
    names = {name: f"rec_data/movie/{name}.json ({name})" for name in ("train", "valid", "test")}
    assert warnings[f"{names['train']} and {names['test']}"] == (
        "shared rows: 10; shared users: 1, with 10 rows (3.3%) of the latter"
    )
    assert warnings[f"{names['valid']} and {names['test']}"].startswith("shared rows: 2; shared users: 1, with 10 rows")
    assert warnings[f"{names['train']} and {names['valid']}"].startswith("shared rows: 2; shared users: 1, with 2 rows")
    write_records(paths["train"], test[:3])
    assert "is gone or has changed" in found(tmp_path, "note")[f"{names['train']} and {names['test']}"]


def test_free_text_and_the_same_file(tmp_path):
    paths = make_data(tmp_path)
    test = read_records(paths["test"])
    write_records(paths["source"], [{"instruction": "i", "input": test[0]["input"], "output": "1. free text"}])
    folder = tune(tmp_path / "run", {**paths, "valid": paths["test"]}, "cot")
    evaluate(folder, paths["test"], test, *score(test, 1, 1), folder)
    warnings = found(tmp_path, "warning")
    source = "instruction_data/netflix/train.json (train)"
    assert warnings[f"{source} and rec_data/movie/test.json (test)"].startswith("shared rows: 1; users not compared")
    assert warnings["rec_data/movie/test.json (valid) and rec_data/movie/test.json (test)"] == "the same rows"


def test_sanity(tmp_path):
    paths = make_data(tmp_path)
    test = read_records(paths["test"])
    test = [r for r in test if r["output"] == "Yes."] + [r for r in test if r["output"] == "No."][:5]
    write_records(paths["test"], test)
    folder = tune(tmp_path / "run", paths, "source", source="netflix", truncated=7)
    p_yes, p_no = score(test, 1, 1)
    evaluate(folder, paths["test"], test, p_yes / 10, p_no / 10, folder)
    warnings, notes = found(tmp_path, "warning"), found(tmp_path, "note")
    assert warnings["movie: labels"] == "149 test rows, 96.6% 'Yes.'"
    assert warnings["movie: source netflix, zero-shot"] == (
        "prompts of 7 rows of instruction_data/netflix/train.json were cut; raise --cutoff_len"
    )
    assert "only 9.0% of the probability is on the two answers" in notes["movie: source netflix, zero-shot"]


def test_cells_that_were_scored_otherwise_are_marked(tmp_path):
    paths = make_data(tmp_path)
    test = read_records(paths["test"])
    usual = {"frame": "alpaca", "cutoff_len": 512, "dtype": "bfloat16", "quantization": "none", "attention": "sdpa"}
    for shots, other in ((16, {}), (64, {}), (256, {"cutoff_len": 128, "dtype": "float32"})):
        folder = tune(tmp_path / str(shots), paths, "few-shot", None, shots, 0)
        evaluate(folder, paths["test"], test, *score(test, 0.3, shots), folder, scoring=usual | other)
    evaluate(tmp_path / "old", paths["test"], test, *score(test, 0, 1))  # does not say it
    said = found(tmp_path, "warning")["movie: base model, 256 shots"]
    assert said == "scored with cutoff_len 128 (most: 512), dtype float32 (most: bfloat16)"
    test_set, _, _ = gather(tmp_path)
    marks = {cell.shots: "‡" in tables.cell_text(cell, test_set) for cell in test_set.cells}
    assert marks == {0: False, 16: False, 64: False, 256: True}


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.slow
def test_damaged_runs_are_listed(copy, monkeypatch, capsys):
    def rewrite(path, old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    rewrite(copy / "deep/run160/predictions.jsonl", '"p_yes": 0.', '"p_yes": NaN, "x": 0.')
    (copy / "deep/run161/run.json").unlink()
    os.mkfifo(copy / "deep/run161/run.json")  # reading it would wait for ever
    (copy / "deep/run162/predictions.jsonl").unlink()
    (copy / "deep/run162/predictions.jsonl").mkdir()
    rewrite(copy / "deep/run640/run.json", '"started": "20', '"started": "19')  # tuned anew after the evaluation
    rewrite(copy / "deep/run641/metrics.json", '"data"', '"dates"')
    (copy / "z/metrics.json").unlink()
    (copy / "z/metrics.json").symlink_to("nowhere")
    for folder in ("half", "checked/checkpoints/checkpoint-10"):
        (copy / folder).mkdir(parents=True)
    (copy / "half/adapter_config.json").write_text("{}")
    (copy / "checked/checkpoints/checkpoint-10/trainer_state.json").write_text("{}")
    report(monkeypatch, copy)
    assert capsys.readouterr().out.startswith("2 evaluations on 1 test sets, 8 damaged or unfinished runs\n")
    markdown = (copy / "report/results.md").read_text()
    for folder, problem in (
        ("deep/run160", "p_yes is nan, not a probability"),
        ("deep/run161", "run.json: is not a file"),
        ("deep/run162", "predictions.jsonl: is not a file"),
        ("deep/run640", "was made for an earlier adapter of this folder; evaluate again"),
        ("deep/run641", "the key 'run.data' is missing"),
        ("z", "metrics.json: no such file"),
        ("half", "an adapter without run.json"),
        ("checked/checkpoints/checkpoint-10", "its run has not finished"),
    ):
        assert re.search(rf"\| {folder} \| .*{problem}", markdown), folder


GONE = object()
ODD = [  # (file, key and value to put there, words of the problem); any value anywhere: tests/fuzz/test_fuzz_results.py
    ("metrics.json", "format", 2, "is in format 2, not 1"),
    ("metrics.json", "intervals.auc.users", [0.5], "'intervals.auc.users': List should have at least 2 items"),
    ("metrics.json", "ece", GONE, "the key 'ece' is missing"),
    ("metrics.json", "auc", True, "'auc': should be a valid number"),
    ("metrics.json", "auc", None, "metrics.json says None; evaluate again"),
    ("metrics.json", "run.adapter.run.stage", GONE, "does not name its stage"),
    ("run.json", "results.history.0.eval_auc", GONE, "the key 'results.history.0.eval_auc' is missing"),
    ("run.json", "start_adapter", "source", "'start_adapter': should be a valid dictionary"),
]


def put(value, key, new):
    """Set or remove what lies under a key such as "run.data.test"."""
    *outer, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in outer:
        value = value[part]
    if new is GONE:
        del value[last]
    else:
        value[last] = new


@pytest.mark.parametrize(("name", "key", "value", "problem"), ODD)
def test_an_odd_run_is_listed(copy, name, key, value, problem):
    path = copy / "deep/run161" / name
    content = json.loads(path.read_text())
    put(content, key, value)
    path.write_text(json.dumps(content))
    test_set, found, _ = gather(copy)
    ((folder, text),) = found.problems
    assert folder == "deep/run161" and problem in text and "\n" not in text and len(test_set.evaluations) == 7


def test_what_is_odd_but_no_damage(copy):
    """A loss or AUC that is not finite, and unknown keys, which are kept."""
    for name in ("metrics.json", "run.json"):
        path = copy / "deep/run161" / name
        content = json.loads(path.read_text()) | {"more": [None]}
        run = content["run"]["adapter"]["run"] if name == "metrics.json" else content
        for entry in run["results"]["history"]:
            entry |= {"eval_loss": None, "eval_auc": None}
        path.write_text(json.dumps(content))
    test_set, found, _ = gather(copy)
    assert found.problems == [] and len(found.evaluations) == 8
    assert "more" in cell_of(test_set, "source netflix", 16).evaluations[1].metrics


def test_predictions_of_other_rows_are_left_out(copy):
    records = read_records(copy / "rec_data/movie/test.json")[::-1]
    evaluate(copy / "zz", copy / "rec_data/movie/test.json", records, *score(records, 1, 1))
    test_set, found, _ = gather(copy)
    assert len(test_set.evaluations) == 8
    assert found.problems == [("zz", "its labels are not those of anything on the same test file")]


def test_only_damaged_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/run.json").write_text("[]")
    report(monkeypatch, tmp_path)
    assert "0 evaluations on 0 test sets, 1 damaged" in capsys.readouterr().out
    assert "No evaluation that can be read" in (tmp_path / "report/index.html").read_text()


def test_one_class_is_not_defined(tmp_path, monkeypatch):
    records = [record for record in make_records(users=6, seed=3) if record["output"] == "No."]
    write_records(tmp_path / "no.json", records)
    evaluate(tmp_path / "run", tmp_path / "no.json", records, *score(records, 1, 1))
    report(monkeypatch, tmp_path)
    markdown = (tmp_path / "report/results.md").read_text()
    assert (
        "| base model | not defined \\[nothing\\] |" in markdown
        and "Only one label occurs, so AUC is not defined." in markdown
    )
    assert "100.0% 'No.': AUC is not defined" in markdown
    assert not list((tmp_path / "report").glob("*.png"))


NASTY = "a <b>|`x` [y](z) $\\nope$ \n\x1b[2J\u2028"


@pytest.mark.slow
def test_names_have_no_meaning(copy, monkeypatch, capsys):
    """Folder names that are HTML, Markdown, TeX, control characters, or not UTF-8."""
    os.rename(copy / "deep/run161", copy / "deep" / NASTY)
    os.rename(os.fsencode(copy / "deep/run162"), os.fsencode(copy / "deep") + b"/\xff\xfe")
    os.rename(copy / "anything", copy / "any<i>thing")  # still known by its content
    (copy / "deep" / NASTY / "metrics.json").write_text("{")
    path = copy / "z" / "metrics.json"
    content = json.loads(path.read_text())
    content["run"]["adapter"] = {"path": NASTY * 50, "sha256": "0", "config_sha256": "0", "run": None}
    content["run"]["data"]["train"] = {"path": "x" * 5000 + "\0", "sha256": "0", "rows": 5}
    path.write_text(json.dumps(content))
    report(monkeypatch, copy)
    printed = capsys.readouterr().out
    assert printed.startswith("7 evaluations on 1 test sets, 1 damaged") and "\x1b" not in printed
    shown = r"a &lt;b&gt;\|\`x\` \[y\](z) $\\nope$ \\n\\x1b\[2J\\u2028"
    markdown = (copy / "report/results.md").read_text()
    assert f"| deep/{shown} | " in markdown and r"| deep/\\xff\\xfe |" in markdown
    assert f"| adapter {shown}" in markdown and "<b>" not in markdown and "<i>" not in markdown
    html = (copy / "report/index.html").read_text()
    assert "<td>deep/a &lt;b&gt;|`x` [y](z) $\\nope$ \\n\\x1b[2J\\u2028</td>" in html
    with open(copy / "report/results.csv", newline="") as file:
        assert "deep/\\xff\\xfe" in {row["folder"] for row in csv.DictReader(file)}
    report(monkeypatch, copy, "--output_dir", copy / os.fsdecode(b"r\xff"))
    assert capsys.readouterr().out.endswith("r\\xff/index.html\n")


def test_launcher_from_a_foreign_folder(tmp_path):
    (tmp_path / "my work").mkdir()
    launcher = REPOSITORY / "shell" / "report.sh"
    environment = {**os.environ, "ROOT_PATH": "my work", "PYTHON": sys.executable}
    done = subprocess.run(["bash", launcher], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: my work: no runs; a run is a folder with a run.json, a metrics.json or a probe.json\n"
    assert list((tmp_path / "my work").iterdir()) == []


def test_heavy_libraries_wait_for_the_flags_and_torch_is_not_needed():
    code = (
        "import sys; sys.argv = ['report', 'nowhere']\n"
        "import tlrec.report.__main__ as report, tlrec.compare\n"
        "try: report.main()\n"
        "except Exception as error: print(error)\n"
        "heavy = ('torch', 'numpy', 'matplotlib', 'sklearn', 'pandas', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import tlrec.baselines.__main__\n"
        "from tlrec.report import checks, figures, page, tables\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "nowhere: no such folder\n[]\nFalse\n"


def test_output_that_is_a_file(monkeypatch, workspace, tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InputError, match="report: cannot be made: File exists"):
        report(monkeypatch, workspace, "--output_dir", tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"
