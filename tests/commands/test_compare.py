"""Two evaluations side by side: python -m tlrec.compare A B.

1. Every metric of both, and their difference, is scikit-learn's; its paired intervals are those of the jackknife.
2. A difference that is noise is called so, one that is not says who is better; A and B swapped only change the sign.
3. A run against itself, or two without a single wrong pair, get no interval and no verdict.
4. Different test data, damaged files and one-class data are refused in one line, exit status 2.
5. The JSON file is never overwritten unasked.
"""

import json
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.synthetic import evaluate, make_records, score
from tlrec.compare import compare, comparison_table, main
from tlrec.data.records import labels_of, write_records
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import auc, uauc
from tlrec.evaluation.results import read_evaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of three evaluations on one test file, "weak", "twin" (as good) and "strong", and "other" on another."""
    root = tmp_path_factory.mktemp("runs")
    records = make_records(users=25, seed=3)
    write_records(root / "test.json", records)
    for name, skill, seed in (("weak", 0.4, 1), ("twin", 0.4, 2), ("strong", 2.0, 3)):
        evaluate(root / name, root / "test.json", records, *score(records, skill, seed))
    labels = labels_of(records)
    for name, gap in (("right", 0.4), ("right too", 0.2)):
        evaluate(root / name, root / "test.json", records, 0.3 + gap * labels, 0.7 - gap * labels)
    other = make_records(users=25, seed=4)
    write_records(root / "other.json", other)
    evaluate(root / "other", root / "other.json", other, *score(other, 0.4, 1))
    return root


def test_numbers(runs):
    found = compare(runs / "strong", runs / "weak")
    (_, a), (_, b) = read_evaluation(runs / "strong"), read_evaluation(runs / "weak")
    by_hand = [roc_auc_score(a["label"], one["score"]) for one in (a, b)]
    assert found["difference"]["auc"] == pytest.approx(by_hand[0] - by_hand[1])
    for metric, name in ((auc, "auc"), (uauc, "uauc")):
        expected = jackknife(metric, a["label"], [a["score"], b["score"]], a["user"]).interval([0], [1])
        assert found["difference"]["intervals"][name]["users"] == expected and expected[0] > 0
    users = [
        [roc_auc_score(a["label"][a["user"] == u], one["score"][a["user"] == u]) for u in range(25)] for one in (a, b)
    ]
    assert found["a"]["uauc"] == pytest.approx(np.mean(users[0])) and found["b"]["uauc"] == pytest.approx(
        np.mean(users[1])
    )
    assert (found["n"], found["users"]) == (250, 25)
    low, high = found["difference"]["intervals"]["uauc"]["users"]
    assert f"over users {low:+.4f} to {high:+.4f}" in comparison_table(found)


def test_verdicts(runs):
    end = "judged by AUC over users"
    assert comparison_table(compare(runs / "strong", runs / "weak")).endswith(f"=> A is better, {end}")
    assert comparison_table(compare(runs / "weak", runs / "strong")).endswith(f"=> B is better, {end}")
    noise, back = compare(runs / "weak", runs / "twin"), compare(runs / "twin", runs / "weak")
    low, high = noise["difference"]["intervals"]["auc"]["users"]
    assert low < 0 < high and comparison_table(noise).endswith(f"=> within noise, {end}")
    assert back["difference"]["auc"] == -noise["difference"]["auc"]
    assert back["difference"]["intervals"]["auc"]["users"] == pytest.approx([-high, -low])


@pytest.mark.parametrize("pair", [("weak", "weak"), ("right", "right too"), ("right", "weak")])
def test_no_verdict(runs, pair):
    found = compare(*(runs / name for name in pair))
    assert found["difference"]["intervals"]["auc"] == {"rows": None, "users": None}
    assert "=> no verdict, since users do not tell how certain the difference is" in comparison_table(found)
    assert "over users none" in comparison_table(found)


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


def test_command_line(runs, tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
        with one_line_errors():
            main()
        return capsys.readouterr().out

    output = tmp_path / "result.json"
    printed = command(runs / "strong", runs / "weak", "--json", output)
    assert printed.splitlines()[-1].startswith("=> A is better")
    assert json.loads(output.read_text())["difference"]["auc"] > 0.1
    before = output.read_bytes()
    for words, message in (
        ((runs / "weak", runs / "twin", "--json", output), f"{output}: exists; choose another name or add --overwrite"),
        ((runs / "weak", tmp_path), f"{tmp_path / 'metrics.json'}: no such file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            command(*words)
        assert capsys.readouterr() == ("", f"error: {message}\n")
    assert output.read_bytes() == before
