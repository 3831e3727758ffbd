"""Tables and pictures of the docs come from docs/results/runs.csv: docs/results/make.py.

1. They are up to date; no path of a machine is in the rows; kept predictions have the AUC of their row.
2. Runs of a workspace become rows with scikit-learn's AUC, and kept predictions compare as their folder does.
3. A marked place is filled with means and spreads, and with the differences of tlrec.compare on the kept predictions; a
   picture is drawn anew only if its rows have changed.
"""

import importlib.util
import re
import shutil

import pytest
from sklearn.metrics import roc_auc_score

from tests.conftest import REPOSITORY
from tests.support.synthetic import evaluate, make_data, score, tune
from tlrec.compare import compare, read_scores
from tlrec.data.records import labels_of, read_records
from tlrec.errors import InputError


@pytest.fixture
def make(tmp_path, monkeypatch):
    """docs/results/make.py, working on a copy of README.md and docs/."""
    spec = importlib.util.spec_from_file_location("make_results", REPOSITORY / "docs" / "results" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy = tmp_path / "repository"
    shutil.copytree(REPOSITORY / "docs", copy / "docs")
    shutil.copy(REPOSITORY / "README.md", copy)
    monkeypatch.setattr(module, "REPOSITORY", copy)
    monkeypatch.setattr(module, "HERE", copy / "docs" / "results")
    return module


@pytest.mark.slow
def test_the_docs_are_up_to_date(make):
    assert make.make() == []
    assert not re.search("[ =,]/[a-z]", (make.HERE / "runs.csv").read_text())  # no path of a machine
    for row in make.read_runs().dropna(subset=["predictions"]).to_dict("records"):
        test, labels, scores, _ = read_scores(make.HERE / row["predictions"])
        assert test["sha256"] == row["test_sha256"]
        assert row["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Zero-shot, and 16 shots with three seeds."""
    root = tmp_path_factory.mktemp("workspace")
    paths = make_data(root)
    test = read_records(paths["test"])
    source = tune(root / "source", paths, "source", source="netflix")
    evaluate(source, paths["test"], test, *score(test, 0.3, 2), source)
    for seed in range(3):
        folder = tune(root / f"{seed}_16", paths, "few-shot", source, 16, seed)
        evaluate(folder, paths["test"], test, *score(test, 1, seed), folder)
    return root


@pytest.fixture
def empty(make, workspace):
    """make.py beside the rows of the workspace and an empty README.md."""
    shutil.rmtree(make.REPOSITORY)
    make.HERE.mkdir(parents=True)
    (make.REPOSITORY / "README.md").touch()
    for _ in range(2):  # the second time they are replaced, not added
        make.add(make.collect(workspace, "small", "pocket", ["1_16", "source"]))
    return make


def test_runs_become_rows(empty, workspace):
    runs = empty.read_runs().set_index("run")
    test = read_records(workspace / "rec_data/movie/test.json")
    for seed in range(3):
        p_yes, p_no = score(test, 1, seed)
        assert runs.loc[f"{seed}_16", "auc"] == pytest.approx(roc_auc_score(labels_of(test), p_yes - p_no))
    row, flags = runs.loc["1_16"], "--learning_rate 0.0001 --num_epochs 3 --seed 1 --output_dir $ROOT_PATH/1_16"
    assert (len(runs), row["users"], row["recipe"], row["base"]) == (4, 30, "small", "pocket")
    assert (row["method"], row["stages"], row["source"]) == ("source netflix", "source + few-shot", "netflix")
    assert (row["shots"], row["seed"], row["command"]) == (16, 1, f"python rec_tuning.py {flags}")
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    kept, folder = empty.HERE / row["predictions"], workspace / "1_16"
    assert compare(kept, workspace / "0_16")["difference"] == compare(folder, workspace / "0_16")["difference"]
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged, or not a file of docs/results/predictions"):
        compare(kept, folder)


def test_marked_places_and_pictures(empty, workspace):
    table = empty.HERE / "differences.csv"
    table.write_text("test,question,with,without\nmovie,what 16 shots add,1_16,source\n")
    page = empty.REPOSITORY / "docs" / "mine.md"
    page.write_text(
        "a\n<!-- results: movie uauc -->\nold\n<!-- end -->\nb ![](results/movie.png)\n"
        "<!-- differences: movie -->\n<!-- end -->\n![](results/differences.png)\n"
    )
    assert set(empty.make()) == {page, table, empty.HERE / "movie.png", empty.HERE / "differences.png"}
    few = empty.read_runs().query("shots == 16")["uauc"]
    lines = page.read_text().splitlines()
    assert lines[2] == "| | zero-shot | 16 shots | 64 shots | 256 shots |"
    assert lines[4].endswith(f" | {few.mean():.3f} ± {few.std():.3f} |  |  |")
    assert lines[5].startswith("| history baseline (no training) | 0.")
    assert lines[6:8] == ["<!-- end -->", "b ![](results/movie.png)"]
    expected = compare(workspace / "1_16", workspace / "source")["difference"]
    low, high = expected["intervals"]["auc"]["users"]
    line = f"| what 16 shots add | {expected['auc']:+.3f} ({low:+.3f} to {high:+.3f}) | {expected['uauc']:+.3f} ("
    assert lines[11].startswith(line)
    assert empty.make() == []
