"""Two evaluations side by side: python -m tlrec.compare A B.

1. Every metric of both, and their difference, is scikit-learn's; its paired intervals are those of the jackknife.
2. A difference that is noise is called so, one that is not says who is better; A and B swapped only change the sign. A
   run against itself, or two without a single wrong pair, get no interval and no verdict.
3. Different test data, damaged files and one-class data are refused in one line, exit status 2; the JSON file is never
   overwritten unasked.
"""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.mistakes import assert_mistakes
from tests.support.synthetic import evaluate, make_records, score
from tlrec.compare import compare, comparison_table
from tlrec.data.records import labels_of, write_records
from tlrec.errors import InputError
from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import auc, uauc
from tlrec.evaluation.results import read_evaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of evaluations on one test file, "weak", "twin" (as good) and "strong", "right" and "right too" (without a
    wrong pair), "other" on another one, and "liked" on rows that are all liked."""
    root = tmp_path_factory.mktemp("runs")
    records, other = (make_records(users=25, seed=seed) for seed in (3, 4))
    liked = [record for record in records if record["output"] == "Yes."]
    for name, own in (("test", records), ("other", other), ("liked", liked)):
        write_records(root / f"{name}.json", own)
        evaluate(root / name, root / f"{name}.json", own, *score(own, 0.4, 1))
    for name, skill, seed in (("weak", 0.4, 1), ("twin", 0.4, 2), ("strong", 2.0, 3)):
        evaluate(root / name, root / "test.json", records, *score(records, skill, seed))
    labels = labels_of(records)
    for name, gap in (("right", 0.4), ("right too", 0.2)):
        evaluate(root / name, root / "test.json", records, 0.3 + gap * labels, 0.7 - gap * labels)
    return root


def test_numbers(runs):
    found = compare(runs / "strong", runs / "weak")
    (_, a), (_, b) = read_evaluation(runs / "strong"), read_evaluation(runs / "weak")
    by_hand = [roc_auc_score(a["label"], one["score"]) for one in (a, b)]
    assert found["difference"]["auc"] == pytest.approx(by_hand[0] - by_hand[1])
    for metric, name in ((auc, "auc"), (uauc, "uauc")):
        expected = jackknife(metric, a["label"], [a["score"], b["score"]], a["user"]).interval([0], [1])
        assert found["difference"]["intervals"][name]["users"] == expected and expected[0] > 0
    for name, one in (("a", a), ("b", b)):
        of_users = [roc_auc_score(a["label"][a["user"] == u], one["score"][a["user"] == u]) for u in range(25)]
        assert found[name]["uauc"] == pytest.approx(np.mean(of_users))
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


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("weak", "other"), "different test data: .*test.json .*other.json .*evaluate both on one file"),
        (("liked", "liked"), "rows have the same label, so AUC is not defined"),
    ],
)
def test_what_cannot_be_compared(runs, pair, message):
    with pytest.raises(InputError, match=message):
        compare(*(runs / name for name in pair))


def test_command_line(runs, tmp_path, run_script):
    output = tmp_path / "result.json"
    status, printed, _ = run_script("tlrec/compare.py", runs / "strong", runs / "weak", "--json", output)
    assert status == 0 and printed.splitlines()[-1].startswith("=> A is better")
    assert json.loads(output.read_text())["difference"]["auc"] > 0.1
    before = output.read_bytes()
    refused = run_script("tlrec/compare.py", runs / "weak", runs / "twin", "--json", output)
    assert refused == (2, "", f"error: {output}: exists; choose another name or add --overwrite\n")
    assert output.read_bytes() == before
    assert_mistakes("tlrec/compare.py", [([runs / "weak", tmp_path], f"{tmp_path / 'metrics.json'}: no such file")])
