"""Two evaluations side by side: python -m tlrec.compare A B.

1. The difference, its paired intervals over rows and users, and DeLong's test are those of tlrec.evaluation.metrics.
2. A difference that is noise is called so, one that is not says who is better; A and B swapped only change the sign.
3. The same of uAUC, over the users with both labels.
4. Different test data, damaged files and one-class data are refused in one line, exit status 2.
5. The JSON file is never overwritten unasked.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support.synthetic import evaluate, make_records, score
from tlrec.compare import compare, comparison_table, main
from tlrec.data.records import write_records
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.intervals import bootstrap_aucs, bootstrap_uaucs, delong_test, interval
from tlrec.evaluation.metrics import uauc
from tlrec.evaluation.results import read_evaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of three evaluations on one test file, "weak", "twin" (as good) and "strong", and "other" on another."""
    root = tmp_path_factory.mktemp("runs")
    records = make_records(users=25, seed=3)
    write_records(root / "test.json", records)
    for name, skill, seed in (("weak", 0.4, 1), ("twin", 0.4, 2), ("strong", 2.0, 3)):
        evaluate(root / name, root / "test.json", records, *score(records, skill, seed))
    other = make_records(users=25, seed=4)
    write_records(root / "other.json", other)
    evaluate(root / "other", root / "other.json", other, *score(other, 0.4, 1))
    return root


def test_numbers(runs):
    result = compare(runs / "strong", runs / "weak", resamples=500, seed=1)
    (metrics_a, a), (metrics_b, b) = read_evaluation(runs / "strong"), read_evaluation(runs / "weak")
    assert result["difference"] == metrics_a["auc"] - metrics_b["auc"]
    scores = [a["score"], b["score"]]
    for unit, groups, n in (("rows", None, 250), ("users", a["user"], 25)):
        samples = bootstrap_aucs(a["label"], scores, groups, 500, 1)
        assert result["interval"][unit] == interval(samples[:, 0] - samples[:, 1], n)
    assert result["delong"] == delong_test(a["label"], *scores)
    assert (result["n"], result["users"]) == (250, 25)


def test_verdicts(runs):
    assert comparison_table(compare(runs / "strong", runs / "weak")).endswith("=> A is better, judged over users")
    assert comparison_table(compare(runs / "weak", runs / "strong")).endswith("=> B is better, judged over users")
    noise = compare(runs / "weak", runs / "twin")
    assert noise["interval"]["users"][0] < 0 < noise["interval"]["users"][1]
    assert comparison_table(noise).endswith("=> within noise, judged over users")
    back = compare(runs / "twin", runs / "weak")
    assert back["difference"] == -noise["difference"]
    assert np.allclose(back["interval"]["users"], [-noise["interval"]["users"][1], -noise["interval"]["users"][0]])


def test_a_run_against_itself(runs):
    result = compare(runs / "weak", runs / "weak")
    assert (result["difference"], result["interval"]["rows"], result["delong"]["p"]) == (0.0, [0.0, 0.0], None)
    assert "the same order of rows" in comparison_table(result)


def test_within_users(runs):
    result = compare(runs / "strong", runs / "weak", resamples=500, seed=1)
    (_, a), (_, b) = read_evaluation(runs / "strong"), read_evaluation(runs / "weak")
    (first, _, n), (second, _, _) = (uauc(a["label"], part["score"], a["user"]) for part in (a, b))
    samples = bootstrap_uaucs(a["label"], [a["score"], b["score"]], a["user"], 500, 1)
    assert (result["a"]["uauc"], result["b"]["uauc"]) == (first, second) and first > second + 0.1
    bounds = interval(samples[:, 0] - samples[:, 1], n)
    assert result["uauc"] == {"users": n, "difference": first - second, "interval": bounds}
    text = comparison_table(result)
    assert f"uAUC of {n} users with both labels: A {first:.4f}, B {second:.4f}" in text
    assert f"{bounds[0]:+.4f} to {bounds[1]:+.4f}" in text


def test_different_test_data(runs):
    with pytest.raises(InputError, match="different test data: .*test.json .*other.json .*evaluate both on one file"):
        compare(runs / "weak", runs / "other")


def test_one_class(runs, tmp_path):
    records = [record for record in make_records(users=5, seed=3) if record["output"] == "Yes."]
    write_records(tmp_path / "yes.json", records)
    evaluate(tmp_path / "run", tmp_path / "yes.json", records, *score(records, 1, 1))
    with pytest.raises(InputError, match="rows have the same label, so AUC is not defined"):
        compare(tmp_path / "run", tmp_path / "run")


def test_metrics_without_their_test_data(runs, tmp_path):
    for name in ("metrics.json", "predictions.jsonl"):
        (tmp_path / name).write_bytes((runs / "weak" / name).read_bytes())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    del metrics["run"]["data"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="metrics.json: the key 'run.data' is missing"):
        compare(tmp_path, runs / "weak")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs main() with flags; returns (exit status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
        try:
            with one_line_errors():
                main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_command_line(runs, tmp_path, command):
    output = tmp_path / "result.json"
    code, printed, _ = command(runs / "strong", runs / "weak", "--resamples", "200", "--json", output)
    assert code == 0
    assert "A - B" in printed and "DeLong" in printed and printed.splitlines()[-1].startswith("=> A is better")
    assert json.loads(output.read_text())["delong"]["p"] < 0.01
    before = output.read_bytes()
    code, _, error = command(runs / "weak", runs / "twin", "--json", output)
    assert (code, output.read_bytes()) == (2, before)
    assert error == f"error: {output}: exists; choose another name or add --overwrite\n"
    code, _, error = command(runs / "weak", runs / "twin", "--resamples", "7")
    assert (code, error) == (2, "error: --resamples 7: an interval needs at least 100\n")


@pytest.mark.slow
def test_a_folder_without_an_evaluation(runs, tmp_path):
    words = [sys.executable, "-m", "tlrec.compare", str(runs / "weak"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'metrics.json'}: no such file\n"
