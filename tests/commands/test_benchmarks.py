"""The benchmarks run from end to end on tiny shapes, and what they compare gives the same results. Nothing is timed.

1. Scoring and validation: the published procedures and ours give the same log-probabilities, AUC and loss.
2. Tuning: the same loss and gradient norm of a step.
3. Ranking: packed, as rows behind the shared prefix, and whole, the same log-probabilities.
4. Peers: a worker's answers are timed and survive what libraries print; ours gives the scores of evaluate.py, and both
   ways of tuning the same losses; a wrong score, AUC, loss or gradient fails; the batches of peers are those of ours.
"""

import importlib
import json
from contextlib import nullcontext
from importlib import metadata

import numpy as np
import pytest
import torch

from benchmarks import bench_peers, bench_ranking, bench_scoring, bench_tuning, models, peers
from tlrec.errors import InputError
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model.prompts import load_frame
from tlrec.scoring.records import score_records

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie" / "test.json"


@pytest.fixture(scope="module")
def tiny(data):
    return ["--shape", "tiny", "--device", "cpu", "--data", str(data), "--repeats", "1"]


def test_scoring_and_validation(tiny, tmp_path):
    output = tmp_path / "scoring.json"
    report = bench_scoring.main([*tiny, "--rows", "20", "--max_new_tokens", "3", "--output", str(output)])
    names = {"published", "ours", "ours, no shared prefix", "published validation", "validation"}
    assert set(report["largest_difference"]) == names and max(report["largest_difference"].values()) < 1e-4
    assert len({round(found, 6) for found in report["auc"].values()}) == 1
    assert report["loss"]["validation"] == pytest.approx(report["loss"]["published validation"], abs=1e-4)
    assert json.loads(output.read_text())["auc"] == report["auc"]


@pytest.mark.slow
def test_tuning(tiny):
    report = bench_tuning.main([*tiny, "--rows", "8"])
    loss, norm = report["same_step"]["loss"], report["same_step"]["grad_norm"]
    for name in ("ours", "shared"):
        assert loss[name] == pytest.approx(loss["published"], abs=1e-4)
        assert norm[name] == pytest.approx(norm["published"], rel=1e-3) and norm[name] > 0


def test_ranking(tiny):
    report = bench_ranking.main([*tiny, "--rows", "24", "--users", "2", "--plain_rows", "20"])
    assert max(report["largest_difference"].values()) < 1e-4
    assert report["own_tokens"] < report["whole_tokens"] / 5
    with pytest.raises(InputError, match="--users 99: .* has 24 rows"):
        bench_ranking.main([*tiny, "--users", "99"])


# ------------------------------------------------------------------------------------------------------------- 4. peers


@pytest.mark.slow
def test_peers_ours_alone(tiny, data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(peers.WORKERS)
    ours, serve = importlib.import_module("ours_worker"), importlib.import_module("serve")

    class InThisProcess:
        """A Worker for ours; `test_worker` has a process."""

        def __init__(self, name, environment, threads, **settings):
            self.facts, self.prepare = ours.load(**settings)

        def ask(self, **request):
            return json.loads(json.dumps(serve._timed(self.prepare(**json.loads(json.dumps(request))))))

        def close(self):
            pass

    monkeypatch.setattr(bench_peers, "Worker", InThisProcess)
    output = tmp_path / "peers.json"
    flags = ["--peers", "--dtype", "float32", "--rows", "6", "--batch_size", "4", "--steps", "3"]
    report = bench_peers.main([*tiny, *flags, "--threads", "1", "--output", str(output)])  # asserts equal losses
    scoring, tuning = report["tables"]
    assert json.loads(output.read_text())["tables"] == json.loads(json.dumps([scoring, tuning]))
    assert set(scoring["procedures"]) == {"ours"} and (scoring["rows"], tuning["rows"]) == (6, 12)
    records = models.load_records(data, 6)
    merged = models.make_model("tiny", CPU, torch.float32).unload()  # the adapter is for tuning
    found = score_records(merged, models.load_tokenizer("tiny"), records, load_frame("alpaca"))
    labels = [record["output"] == "Yes." for record in records]
    assert scoring["auc"]["ours"] == auc(labels, two_probabilities_to_score(found.p_yes, found.p_no))
    assert set(tuning["losses"]) == {"ours", "ours, shared prefix"}
    for losses in tuning["losses"].values():
        assert losses == pytest.approx(tuning["losses"]["ours"], abs=1e-4)
        assert len(losses) == bench_peers.CHECKED and losses[0] != losses[1]
    assert tuning["facts"]["ours"]["versions"]["torch"] == metadata.version("torch")


PEER_SCRIPT = """
import sys
sys.path.insert(0, {workers!r})
from serve import serve, versions

def load(factor):
    print("a library says hello")
    def prepare(numbers):
        def work():
            print("and goes on")
            if not numbers:
                raise SystemExit("it has no numbers")
            return {{"sum": factor * sum(numbers)}} | ({{"seconds": 7.0}} if len(numbers) > 2 else {{}})
        return work
    return {{"versions": versions("torch", "no-such-package")}}, prepare

serve(load)
"""


@pytest.mark.slow
def test_worker(tmp_path, monkeypatch):
    (tmp_path / "echo_peer_worker.py").write_text(PEER_SCRIPT.format(workers=str(peers.WORKERS)))
    monkeypatch.setattr(peers, "WORKERS", tmp_path)
    worker = peers.Worker("echo-peer", None, 1, factor=3)
    assert worker.facts == {"versions": {"torch": metadata.version("torch")}}
    answer = worker.ask(numbers=[1, 2])
    assert answer["sum"] == 9 and 0 <= answer["seconds"] < 7 and answer["cpu_seconds"] >= 0
    assert worker.ask(numbers=[1, 2, 3]) == worker.answer and worker.answer["seconds"] == 7.0  # it timed itself
    with pytest.raises(InputError, match="^echo-peer stopped: it has no numbers$"):
        worker.ask(numbers=[])


def figures_of(answers):
    turns = {"seconds": [3.0, 1.0, 2.0], "cpu_seconds": [1.0, 1.0, 1.0]}
    return {name: turns | {"first": answer, "answer": answer, "facts": {}} for name, answer in answers.items()}


def test_peers_scores_are_compared():
    scores, wrong, one_row = np.log([[0.6, 0.1], [0.2, 0.3], [0.5, 0.2], [0.5001, 0.2]]), *np.zeros((2, 4, 2))
    wrong[2, 1] = 2e-4
    one_row[3, 0] = -9e-4  # another order of rows, so another AUC
    for difference, failure in (
        (9e-5, None),
        (wrong, "log-probabilities differ"),
        (one_row, "log-probabilities differ"),
    ):
        figures = figures_of({"ours": {"log_p": scores}, "vllm": {"log_p": scores + difference}})
        figures["vllm"]["seconds"] = [6.0, 3.0, 3.0]
        table, check = bench_peers.compare("scoring", figures, 4, np.array([1, 0, 1, 0]), "float32")
        assert table["procedures"]["ours"]["rows/s"] == 2 and table["auc"]["ours"] == 0.75
        assert table["procedures"]["vllm"]["ours so many times as fast"] == 1.5
        with pytest.raises(AssertionError, match=f"vllm: {failure}") if failure else nullcontext():
            check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": [2.0, 1.0002]}, "trl: losses differ"),
        ({"losses": [2.0], "grad_norms": [0.5]}, "trl: 1 steps, ours: 2"),
        ({"losses": [2.0, float("nan")]}, "trl: losses differ"),
        ({"grad_norms": [0.5, 0.5006]}, "trl: gradient norms differ"),
    ],
)
def test_peers_losses_are_compared(change, message):
    same = {"losses": [2.0, 1.0], "grad_norms": [0.5, 0.5]}
    figures = figures_of({"ours": same, "ours, shared prefix": same, "trl": same})
    bench_peers.compare("tuning", figures, 4, None, "float32")[1]()
    with pytest.raises(AssertionError, match=message):
        bench_peers.compare("tuning", figures | figures_of({"trl": same | change}), 4, None, "float32")[1]()


def test_peers_get_the_batches_of_ours(data):
    encoder = bench_peers.RecordTokenizer(models.load_tokenizer("tiny"), bench_peers.FRAME, 512)
    rows = encoder.examples(models.load_records(data, 12)).rows
    ordered = bench_peers.in_our_order(rows, 4)
    assert sorted(row["input_ids"] for row in ordered) == sorted(row["input_ids"] for row in rows)
    assert [row["input_ids"] for row in ordered] != [row["input_ids"] for row in rows]
    assert max(len(row["input_ids"]) for row in ordered[:4]) == max(len(row["input_ids"]) for row in rows)
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] for row in ordered)


def test_peers_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no trl there; PEERS=.* bash benchmarks/peers.sh trl makes it"):
        bench_peers.parse(["--peers", "trl", "--peers_folder", str(tmp_path)])
    assert bench_peers.parse(["--peers_folder", str(tmp_path)]).peers == []
