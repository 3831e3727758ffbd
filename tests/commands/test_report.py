"""The report over a workspace: python -m tlrec.report ROOT.

1. Runs are found by their files, through links, whatever their folders are called; method and shots are read from the
   chain of runs, and runs with other flags stand apart.
2. A cell is the mean over seeds; noise is judged by the paired interval over users, against the best floor of the
   metric and the best cell. It says what selected it, whatever the path of the file.
3. results.csv has a row for each evaluation, results.md and index.html the same tables. Same workspace, same bytes. The
   page stands alone: figures inside, no link out, words for every figure.
4. Published numbers stand beside the published rows only, known by their content.
5. Checks: shared rows and users, target validation in zero-shot, one-sided labels, cut prompts, silent models, scoring
   settings that differ, missing and repeated seeds.
6. Damaged, stale, foreign and unfinished runs are listed, each in one line, and fatal to nothing else; names have no
   meaning as HTML, Markdown or TeX; one class is not defined; an empty folder is one line.
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
from tests.support.mistakes import run_all
from tests.support.synthetic import evaluate, make_data, make_records, score, tune
from tlrec.data.records import read_records, write_records
from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import auc, uauc
from tlrec.report import cells, checks, collect, datafiles, tables

REPORT = "tlrec/report/__main__.py"
HISTORY = [(10, 0.6), (20, 0.66), (30, 0.64)]
GONE = object()


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
    evaluate(root / "baselines/x", paths["test"], test, *score(test, 0.2, 77))
    for key, value in {"stage": "baseline", "method": "item-kNN", "shots": -1, "base_model": None}.items():
        put(root / "baselines/x/metrics.json", f"run.{key}", value)
    return root


def put(path, key, new):
    """Set or remove what lies under a key such as "run.data.test" of a JSON file."""
    content = value = json.loads(path.read_text())
    *outer, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in outer:
        value = value[part]
    if new is GONE:
        del value[last]
    else:
        value[last] = new
    path.write_text(json.dumps(content))


@pytest.fixture
def copy(workspace, tmp_path):
    """A copy of the workspace to damage."""
    return shutil.copytree(workspace, tmp_path / "copy")


@pytest.fixture
def data(tmp_path):
    """(paths of the data of an empty workspace, its test records)."""
    paths = make_data(tmp_path)
    return paths, read_records(paths["test"])


def gather(root):
    """(the only TestSet, Workspace, table of checks) of a folder."""
    found, files = collect.collect(root), datafiles.DataFiles(root)
    (test_set,) = cells.test_sets(found.evaluations, files, found.problems)
    return test_set, found, checks.check([test_set], files)


def cell_of(test_set, method, shots):
    (cell,) = [cell for cell in test_set.cells if (cell.method, cell.shots) == (method, shots)]
    return cell


@pytest.fixture(scope="session")
def report(run_script):
    """report(root, *flags) prints this."""

    def run(*words):
        status, out, err = run_script(REPORT, *words)
        assert (status, err) == (0, "")
        return out

    return run


def found(root):
    """{level: {subject: texts}} of the checks."""
    table = gather(root)[2]
    return {level: own.groupby("What")["Found"].agg("\n".join).to_dict() for level, own in table.groupby("")}


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
    assert cell.numbers["auc"].value == pytest.approx(statistics.mean(aucs))
    assert cell.spread["auc"] == pytest.approx(statistics.stdev(aucs))
    assert cell_of(test_set, "source netflix", 0).spread == {}


def test_noise_is_the_paired_interval_over_users(workspace):
    test_set, _, _ = gather(workspace)
    cell, best = cell_of(test_set, "source netflix", 16), cell_of(test_set, "source netflix", 64)
    details = tables.detail_table(test_set).set_index(["Method", "Shots"]).loc[("source netflix", "16 shots")]
    predictions = cell.evaluations[0].predictions
    scores = [evaluation.predictions["score"] for evaluation in cell.evaluations]
    for metric, name in ((auc, "auc"), (uauc, "uauc")):
        floors = {floor: metric(test_set.labels, s, predictions["user"]) for floor, s in predictions["floors"].items()}
        assert {floor: one[name].value for floor, one in test_set.floors.items()} == floors
        floor = max(floors, key=floors.get)
        columns = [*scores, predictions["floors"][floor]]
        estimates = jackknife(metric, test_set.labels, columns, predictions["user"])
        (value, own), (over, paired) = cell.numbers[name], cell.over_floor[name]
        assert own == pytest.approx(estimates.interval([0, 1, 2]))
        assert paired == pytest.approx(estimates.interval([0, 1, 2], [3]))
        assert over == pytest.approx(value - floors[floor])
        # the spread over seeds stands beside the interval over users, and each difference has its own interval
        assert details[f"{name}, ± over seeds"] == f"{cell.spread[name]:.3f}"
        assert details[f"{name}, 95 % over users"] == f"{own[0]:.3f} to {own[1]:.3f}"
        assert details[f"{name} - {floor}, 95 % over users"] == f"{paired[0]:+.3f} to {paired[1]:+.3f}"
    mean, sd = best.numbers["auc"].value, best.spread["auc"]
    assert tables.cell_text(best, test_set) == f"{mean:.3f} ± {sd:.3f} (2) ▲ ★ [150 target rows]"
    base = cell_of(test_set, "base model", 0)
    assert tables.cell_text(base, test_set) == f"{base.numbers['auc'].value:.3f} (1) ▼ [nothing]"


def test_other_flags_stand_apart_and_repeated_seeds_are_named(copy):
    paths = {name: copy / "rec_data/movie" / f"{name}.json" for name in ("train", "valid", "test")}
    test = read_records(paths["test"])
    for name, rate in (("again", 1e-4), ("fast", 5e-4)):
        folder = tune(copy / name, paths, "few-shot", copy / "anything", 16, 0, learning_rate=rate)
        evaluate(folder, paths["test"], test, *score(test, 1, 5), folder)
    put(copy / "fast/metrics.json", "run.versions.peft", "0.1")
    test_set, _, checked = gather(copy)
    names = {cell.method: cell.seeds for cell in test_set.cells if cell.shots == 16}
    slow, fast = (next(name for name in names if f"learning_rate {rate}" in name) for rate in (1e-4, 5e-4))
    assert names == {slow: [0, 0, 1, 2], fast: [0]}
    said = "\n".join(checked["Found"])
    assert "more than one run with seed 0; all of them are in the mean\n" in said and "runs with peft 0.1, " in said


def test_chain_of_stages(tmp_path, data):
    paths, test = data
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
def test_files_mistakes_and_the_same_bytes_again(workspace, tmp_path, report):
    (tmp_path / "mine").write_text("mine")
    flags = (
        ["--help"],
        ["nowhere"],
        [workspace, "--output_dir", tmp_path / "mine"],
        [workspace, "--output_dir", tmp_path / "out"],
    )
    shown, *refused, (status, printed, _, heavy) = run_all([[REPORT, *words] for words in flags])
    assert (shown[0], shown[3], status) == (0, [], 0) and "torch" not in heavy
    assert [(status, err) for status, _, err, _ in refused] == [
        (2, "error: nowhere: no such folder\n"),
        (2, f"error: --output_dir {tmp_path / 'mine'}: cannot be made: File exists\n"),
    ]
    assert (tmp_path / "mine").read_text() == "mine"
    assert printed.startswith("8 evaluations on 1 test sets, 0 damaged or unfinished runs\n")
    assert "warning: movie: source netflix, 64 shots: seeds missing: 2" in printed
    report(workspace, "--output_dir", tmp_path / "again")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    pictures = {"shots_movie.png", "uauc_movie.png", "validation.png"}
    assert set(written) == {"index.html", "results.csv", "results.md"} | pictures
    assert not (workspace / "report").exists()

    test_set, _, _ = gather(workspace)
    metrics = json.loads((workspace / "deep/run161/metrics.json").read_text())
    markdown, html, table = (written[name].decode() for name in ("results.md", "index.html", "results.csv"))
    rows = {row["folder"]: row for row in csv.DictReader(table.splitlines())}
    row = rows["deep/run161"]
    assert (row["method"], row["shots"], row["seed"], row["target"]) == ("source netflix", "16", "1", "movie")
    assert float(row["auc"]) == metrics["auc"] and float(row["uauc"]) == metrics["uauc"]
    assert float(row["auc_users_low"]) == metrics["intervals"]["auc"]["users"][0]
    assert float(row["floor_history_item_auc"]) == metrics["floors"]["history + item"]["auc"]
    assert row["test_sha256"] == metrics["run"]["data"]["test"]["sha256"]
    assert (row["selected_by"], rows["z"]["selected_by"]) == ("150 target rows", "nothing")
    assert rows["z"]["seed"] == "" and rows["baselines/x"]["method"] == "item-kNN"

    cell = cell_of(test_set, "source netflix", 16)
    shown = f"{cell.numbers['auc'].value:.3f} ± {cell.spread['auc']:.3f} (3)"
    assert "| Method | zero-shot | 16 shots | 64 shots | all rows |" in markdown and shown in markdown
    assert f"| no training: history | {test_set.floors['history']['auc'].value:.3f} |" in markdown
    assert "tells generous users from strict ones, but not what a user likes" in markdown
    assert all(f"]({name})" in markdown for name in pictures)
    assert html.count('src="data:image/png;base64,') == html.count("<img ") == 3 and shown in html
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "<script" not in html
    assert all(len(alt) > 40 for alt in re.findall(r'<img alt="([^"]*)"', html))


@pytest.mark.slow
def test_published_numbers_stand_beside_the_published_rows_only(report, shared_data, tmp_path):
    published = shared_data / "rec_data/movie/test.json"
    (tmp_path / "mine.json").write_bytes(published.read_bytes() + b"\n")
    records = read_records(published)
    evaluate(tmp_path / "a", published, records, *score(records, 1, 0))
    evaluate(tmp_path / "b", tmp_path / "mine.json", records, *score(records, 1, 0))
    report(tmp_path)
    first, second = re.split("^## movie.*$", (tmp_path / "report/results.md").read_text(), flags=re.MULTILINE)[1:3]
    assert "Movie test, as published: 1000 test rows of 16 users" in first
    assert "| published: TLRec | 0.706 | 0.726 | 0.730 | 0.741 |" in first
    assert "| published: TLRec, later | 0.722 |" in first and "commit 561abcf" in first
    assert "| published: " not in second and "561abcf" not in second


SELECTED = {
    "link": "150 target rows",
    "reordered": "150 target rows",
    "source": "90 source rows",
    "test": "300 test rows",
    "gone": "90 unknown rows",
    "last": "nothing",
}


@pytest.mark.parametrize(("lies", "expected"), SELECTED.items())
def test_what_selected_a_checkpoint_is_told_by_content(tmp_path, data, lies, expected):
    paths, test = data
    paths["valid"].with_name("nowhere.json").symlink_to("nowhere")
    facts = {"metric_for_best_model": "last"} if lies == "last" else {}
    valid = paths["test" if lies == "test" else "valid"]
    if lies == "link":
        valid = tmp_path / "linked.json"
        valid.symlink_to(paths["valid"])
    elif lies == "reordered":
        valid = tmp_path / "elsewhere" / "rows.json"
        write_records(valid, read_records(paths["valid"])[::-1])
    elif lies in ("source", "gone"):  # in the target's folder, but not the target's rows
        valid = paths["valid"].with_name("mine.txt")
        write_records(valid, make_records(users=9, seed=7))
    folder = tune(tmp_path / "run", paths | {"valid": valid}, "source", source="netflix", **facts)
    evaluate(folder, paths["test"], test, *score(test, 1, 0), folder)
    if lies == "gone":
        valid.unlink()
    test_set, _, checked = gather(tmp_path)
    assert tables.cell_text(test_set.cells[0], test_set).endswith(f" [{expected}]")
    assert list(tables.runs([test_set])["selected_by"]) == [expected]
    said = "\n".join(checked["Found"])
    assert ("so this is zero-shot only in its training" in said) == ("target" in expected)
    assert ("the result is of no use" in said) == (lies == "test")


# ------------------------------------------------------------------------------------------------------------- checks


def test_checks_of_a_clean_workspace(workspace):
    levels = found(workspace)
    pair = "rec_data/movie/train.json (train) and rec_data/movie/test.json (test)"
    assert levels["ok"][pair] == "shared rows: 0; shared users: 0"
    assert re.fullmatch(r"300 test rows, 5\d\.\d% 'No\.'", levels["ok"]["movie: labels"])
    selected = levels["note"]["movie: source netflix, zero-shot"]
    assert selected.startswith("checkpoints were selected by 150 target rows") and "VALID=source" in selected
    assert levels["warning"] == {"movie: source netflix, 64 shots": "seeds missing: 2"}


def test_leaks(tmp_path, data):
    paths, test = data
    # the first test user's rows in training; two later windows of that user in validation
    write_records(paths["train"], read_records(paths["train"]) + test[:10])
    write_records(paths["valid"], make_records(users=5, seed=9) + test[8:10])
    write_records(paths["source"], [{"instruction": "i", "input": test[0]["input"], "output": "1. free text"}])
    cot = tune(tmp_path / "cot", {**paths, "valid": paths["test"]}, "cot")
    folder = tune(tmp_path / "run", paths, "few-shot", cot, 16)
    evaluate(folder, paths["test"], test, *score(test, 1, 1), folder)
    warnings = found(tmp_path)["warning"]
    names = {name: f"rec_data/movie/{name}.json ({name})" for name in ("train", "valid", "test")}
    assert warnings[f"{names['train']} and {names['test']}"] == (
        "shared rows: 10; shared users: 1, with 10 rows (3.3%) of the latter"
    )
    assert warnings[f"{names['valid']} and {names['test']}"].startswith("shared rows: 2; shared users: 1, with 10 rows")
    assert warnings[f"{names['train']} and {names['valid']}"].startswith("shared rows: 2; shared users: 1, with 2 rows")
    free_text = f"instruction_data/netflix/train.json (train) and {names['test']}"
    assert warnings[free_text].startswith("shared rows: 1; users not compared")
    assert warnings[f"rec_data/movie/test.json (valid) and {names['test']}"] == "the same rows"
    write_records(paths["train"], test[:3])
    assert "is gone or has changed" in found(tmp_path)["note"][f"{names['train']} and {names['test']}"]


def test_sanity(tmp_path, data):
    """One-sided labels, cut prompts, a silent model, and a cell that was scored otherwise, which is marked."""
    paths, test = data
    test = [r for r in test if r["output"] == "Yes."] + [r for r in test if r["output"] == "No."][:5]
    write_records(paths["test"], test)
    folder = tune(tmp_path / "run", paths, "source", source="netflix", truncated=7)
    p_yes, p_no = score(test, 1, 1)
    evaluate(folder, paths["test"], test, p_yes / 10, p_no / 10, folder)  # does not say how it was scored
    usual = {"frame": "alpaca", "cutoff_len": 512, "dtype": "bfloat16", "quantization": "none"}
    for shots, other in ((16, {}), (64, {}), (256, {"cutoff_len": 128, "dtype": "float32"})):
        evaluate(tmp_path / str(shots), paths["test"], test, *score(test, 0.3, shots), scoring=usual | other)
        put(tmp_path / str(shots) / "metrics.json", "run.shots", shots)
    test_set, _, checked = gather(tmp_path)
    assert set(checked.loc[checked[""] == "warning", ["What", "Found"]].itertuples(index=False, name=None)) == {
        ("movie: labels", "149 test rows, 96.6% 'Yes.'"),
        (
            "movie: source netflix, zero-shot",
            "prompts of 7 rows of instruction_data/netflix/train.json were cut; raise --cutoff_len",
        ),
        (
            "movie: base model, 256 shots",
            "scored with cutoff_len 128 (most: 512), dtype float32 (most: bfloat16)",
        ),
    }
    assert "only 9.0% of the probability is on the two answers" in "\n".join(checked["Found"])
    marks = {cell.shots: "‡" in tables.cell_text(cell, test_set) for cell in test_set.cells}
    assert marks == {0: False, 16: False, 64: False, 256: True}


# ---------------------------------------------------------------------------------------------------------- bad input

ODD = {  # folder: (file, key and value to put there, words of the problem); any value anywhere: tests/fuzz
    "format": ("metrics.json", "format", 2, "is in format 2, not 1"),
    "bounds": ("metrics.json", "intervals.auc.users", [0.5], "'intervals.auc.users': List should have at least 2"),
    "no ece": ("metrics.json", "ece", GONE, "the key 'ece' is missing"),
    "no auc": ("metrics.json", "auc", None, "metrics.json says None; evaluate again"),
    "no data": ("metrics.json", "run.data", GONE, "the key 'run.data' is missing"),
    "no stage": ("metrics.json", "run.adapter.run.stage", GONE, "does not name its stage"),
    "start": ("run.json", "start_adapter", "source", "'start_adapter': should be a valid dictionary"),
    "stale": ("run.json", "started", "1999-01-01T00:00:00", "was made for an earlier adapter of this folder"),
    # a loss or AUC that is not finite, and unknown keys, are no damage
    "fine": ("run.json", "results.history.0.eval_auc", None, None),
    "more": ("metrics.json", "more", [None], None),
}


def test_damaged_runs_are_listed(workspace, tmp_path, report):
    wrong = {name: problem for name, (*_, problem) in ODD.items() if problem}
    for name, (file, key, value, _) in ODD.items():
        folder = shutil.copytree(workspace / "deep/run161", tmp_path / name)
        put(folder / file, key, value)
    for name, file, make in (
        ("pipe", "run.json", os.mkfifo),  # reading it would wait for ever
        ("no rows", "predictions.jsonl", os.mkdir),
        ("nowhere", "metrics.json", lambda path: path.symlink_to("nowhere")),
    ):
        folder = shutil.copytree(workspace / "deep/run161", tmp_path / name)
        (folder / file).unlink()
        make(folder / file)
        wrong[name] = f"{file}: no such file" if name == "nowhere" else f"{file}: is not a file"
    path = shutil.copytree(workspace / "deep/run161", tmp_path / "nan") / "predictions.jsonl"
    path.write_text(path.read_text().replace('"p_yes": 0.', '"p_yes": NaN, "x": 0.', 1))
    for folder, file, problem in (
        ("half", "adapter_config.json", "an adapter without run.json"),
        ("checked/checkpoint-10", "trainer_state.json", "its run has not finished"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_text("{}")
        wrong[folder] = problem
    other = read_records(workspace / "rec_data/movie/test.json")[::-1]
    evaluate(tmp_path / "other rows", workspace / "rec_data/movie/test.json", other, *score(other, 1, 1))
    wrong |= {"nan": "p_yes is nan, not a probability", "other rows": "its labels are not those of fine on the same"}
    printed = report(tmp_path)
    assert printed.startswith("2 evaluations on 1 test sets, 15 damaged or unfinished runs\n")
    markdown = (tmp_path / "report/results.md").read_text()
    listed = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", markdown.partition("## Damaged")[2], re.MULTILINE))
    for folder, problem in wrong.items():
        assert problem in listed[folder]


def test_only_damaged_runs(tmp_path, report):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/run.json").write_text("[]")
    assert "0 evaluations on 0 test sets, 1 damaged" in report(tmp_path)
    assert "No evaluation that can be read" in (tmp_path / "report/index.html").read_text()


def test_one_class_is_not_defined(tmp_path, report):
    records = [record for record in make_records(users=6, seed=3) if record["output"] == "No."]
    write_records(tmp_path / "no.json", records)
    evaluate(tmp_path / "run", tmp_path / "no.json", records, *score(records, 1, 1))
    report(tmp_path)
    markdown = (tmp_path / "report/results.md").read_text()
    assert "| base model | not defined \\[nothing\\] |" in markdown and "100.0% 'No.': AUC is not defined" in markdown
    assert "Only one label occurs, so AUC is not defined." in markdown
    assert not list((tmp_path / "report").glob("*.png"))


NASTY = "a <b>|`x` [y](z) $\\nope$ \n\x1b[2J\u2028"


@pytest.mark.slow
def test_names_have_no_meaning(copy, report):
    """Folder names that are HTML, Markdown, TeX, control characters, or not UTF-8."""
    os.rename(copy / "deep/run161", copy / "deep" / NASTY)
    os.rename(os.fsencode(copy / "deep/run162"), os.fsencode(copy / "deep") + b"/\xff\xfe")
    os.rename(copy / "anything", copy / "any<i>thing")  # still known by its content
    (copy / "deep" / NASTY / "metrics.json").write_text("{")
    adapter = {"path": NASTY * 50, "sha256": "0", "config_sha256": "0", "run": None}
    put(copy / "z/metrics.json", "run.adapter", adapter)
    put(copy / "z/metrics.json", "run.data.train", {"path": "x" * 5000 + "\0", "sha256": "0", "rows": 5})
    printed = report(copy, "--output_dir", copy / os.fsdecode(b"r\xff"))
    assert printed.startswith("7 evaluations on 1 test sets, 1 damaged") and "\x1b" not in printed
    assert printed.endswith("r\\xff/index.html\n")
    shown = r"a &lt;b&gt;\|\`x\` \[y\](z) $\\nope$ \\n\\x1b\[2J\\u2028"
    markdown, html, table = (
        (copy / "r\udcff" / f"{file}").read_text() for file in ("results.md", "index.html", "results.csv")
    )
    assert f"| deep/{shown} | " in markdown and r"| deep/\\xff\\xfe |" in markdown
    assert f"| adapter {shown}" in markdown and "<b>" not in markdown and "<i>" not in markdown
    assert "<td>deep/a &lt;b&gt;|`x` [y](z) $\\nope$ \\n\\x1b[2J\\u2028</td>" in html
    assert "deep/\\xff\\xfe" in {row["folder"] for row in csv.DictReader(table.splitlines())}


def test_launcher_from_a_foreign_folder(tmp_path):
    (tmp_path / "my work").mkdir()
    launcher = REPOSITORY / "shell" / "report.sh"
    environment = {**os.environ, "ROOT_PATH": "my work", "PYTHON": sys.executable}
    done = subprocess.run(["bash", launcher], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: my work: no runs; a run is a folder with a run.json, a metrics.json or a probe.json\n"
    assert list((tmp_path / "my work").iterdir()) == []
