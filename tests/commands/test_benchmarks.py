"""The benchmarks run from end to end on tiny shapes, and what they compare gives the same results. Nothing is timed.

1. Scoring: the published procedure, ours, and ours without the shared prefix give the same log-probabilities and AUC.
2. Validation: the same log-probabilities, AUC and loss.
3. Tuning: the same loss and gradient norm of a step.
4. Sweep: the same adapters and predictions, byte by byte, from one process as from one process a step.
5. The counted operations are those of the products that a tiny model really makes.
6. Ranking: packed, as rows behind the shared prefix, whole, and by vLLM, the same log-probabilities; ten times the films
   or the users take hardly more memory, or the program fails.
7. Number types: the AUCs and the largest difference are those of two scorings of the drawn rows.
8. Large data: the files are record files, and the tuner really ends after a few steps.
9. Tokenising: the same rows by one encode as by two.
10. Peers: a worker's answers are timed and survive what libraries print; ours gives the scores of evaluate.py, and both
   ways of tuning the same losses; a wrong score, AUC, loss or gradient fails; the batches of peers are those of ours.
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks import (
    bench_dtypes,
    bench_large_data,
    bench_peers,
    bench_ranking,
    bench_scoring,
    bench_sweep,
    bench_tokenising,
    bench_tuning,
    bench_validation,
    models,
    peers,
)
from tlrec.data.records import write_records
from tlrec.errors import InputError
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model import parts
from tlrec.model.setup import ModelSetup

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tiny_workspace):
    return ["--shape", "tiny", "--device", "cpu", "--data", str(tiny_workspace / "rec_data" / "movie" / "test.json")]


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Peak memory needs a process of its own, which costs seconds."""
    monkeypatch.setattr("benchmarks.measure.sys.platform", "tests")


def test_scoring(tiny, tmp_path, capsys):
    output = tmp_path / "scoring.json"
    report = bench_scoring.main(
        [*tiny, "--rows", "20", "--repeats", "1", "--max_new_tokens", "3", "--output", str(output)]
    )
    assert set(report["largest_difference"]) == {"published", "ours", "ours, no shared prefix"}
    assert max(report["largest_difference"].values()) < 1e-4
    assert len({round(auc, 6) for auc in report["auc"].values()}) == 1
    assert json.loads(output.read_text())["auc"] == report["auc"]
    table = capsys.readouterr().out
    assert "scoring 20 rows" in table and "ours, no shared prefix" in table


def test_validation(tiny):
    report = bench_validation.main([*tiny, "--rows", "20", "--repeats", "1"])
    assert report["largest_difference"] < 1e-4
    assert report["auc"]["ours"] == pytest.approx(report["auc"]["published"], abs=1e-6)
    assert report["loss"]["ours"] == pytest.approx(report["loss"]["published"], abs=1e-4)


@pytest.mark.slow
def test_tuning(tiny):
    report = bench_tuning.main([*tiny, "--rows", "8", "--repeats", "1"])
    loss, norm = report["same_step"]["loss"], report["same_step"]["grad_norm"]
    assert loss["ours"] == pytest.approx(loss["published"], abs=1e-4)
    assert norm["ours"] == pytest.approx(norm["published"], rel=1e-3) and norm["ours"] > 0


@pytest.mark.slow
def test_sweep(tiny_llama, monkeypatch):
    sizes = {name: (folder, dict.fromkeys(splits, 16)) for name, (folder, splits) in bench_sweep.FILES.items()}
    monkeypatch.setattr(bench_sweep, "FILES", sizes)
    flags = ["--shots", "2", "--test_rows", "20", "--repeats", "1"]
    flags += ["--num_epochs", "1", "--warmup_steps", "0"]  # for rec_tuning.py
    report = bench_sweep.main(["--base_model", str(tiny_llama), *flags])  # asserts byte by byte
    assert set(report["auc"]) == {2}


def test_ranking(tiny):
    report = bench_ranking.main([*tiny, "--rows", "24", "--users", "2", "--plain_rows", "20", "--repeats", "1"])
    assert max(report["largest_difference"].values()) < 1e-4
    assert report["own_tokens"] < report["whole_tokens"] / 5
    shares = report["share_of_the_plain_rate"]
    assert set(shares) == {"rows", "ranking"} and shares["ranking"] == pytest.approx(
        report["tokens_per_second"]["ranking"] / report["tokens_per_second"]["plain batch"]
    )


def test_ranking_beside_vllm(tiny, vllm):
    flags = [*tiny, "--shape", "pocket", "--dtype", "float32", "--rows", "12", "--plain_rows", "4", "--repeats", "1"]
    report = bench_ranking.main([*flags, "--vllm", str(vllm)])  # asserts equal log-probabilities
    assert set(report["largest_difference"]) == {"plain batch", "rows", "ranking", "vLLM"}
    assert report["vllm"]["cached_tokens"] > 11 * 100 and report["times_as_fast_as_vllm"] > 0


@pytest.fixture
def vllm():
    if not (peers.PEERS / "vllm").exists():
        pytest.skip(f"no vLLM at {peers.PEERS}; bash benchmarks/peers.sh installs it")
    return peers.PEERS / "vllm"


def test_vllm_that_is_not_there_is_one_line(tiny, tmp_path):
    with pytest.raises(InputError, match="no vllm there; PEERS=.* bash benchmarks/peers.sh vllm makes it"):
        bench_ranking.main([*tiny, "--rows", "4", "--repeats", "1", "--vllm", str(tmp_path / "vllm")])


@pytest.mark.slow
def test_peers_ours_alone(tiny, tmp_path):
    output = tmp_path / "peers.json"
    flags = ["--peers", "--dtype", "float32", "--rows", "6", "--batch_size", "4", "--steps", "3", "--repeats", "2"]
    report = bench_peers.main([*tiny, *flags, "--threads", "1", "--output", str(output)])  # asserts equal losses
    scoring, tuning = report["tables"]
    assert json.loads(output.read_text())["tables"] == json.loads(json.dumps([scoring, tuning]))
    assert set(scoring["procedures"]) == {"ours"} and scoring["rows"] == 6 and tuning["rows"] == 12
    assert set(tuning["procedures"]) == set(tuning["losses"]) == {"ours", "ours, shared prefix"}
    records, _ = models.load_records(tiny_path(tiny), 6)
    merged = models.make_model("tiny", CPU, torch.float32).merge_and_unload()
    found = bench_scoring.ours(merged, models.load_tokenizer(), records)
    assert scoring["auc"]["ours"] == auc(
        [r["output"] == "Yes." for r in records], two_probabilities_to_score(*np.exp(found.T))
    )
    for losses in tuning["losses"].values():
        assert losses == pytest.approx(tuning["losses"]["ours"], abs=1e-4)
        assert len(losses) == bench_peers.CHECKED and losses[0] != losses[1]
    for procedure in tuning["procedures"].values():
        assert len(procedure["seconds"]) == 2 and 0 < procedure["cpu_median"] and 0 < procedure["share_of_matrix_rate"]
        assert procedure["versions"]["torch"] == metadata.version("torch")


def tiny_path(flags):
    return Path(flags[flags.index("--data") + 1])


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


def peers_work(name, procedures, requests, **args):
    args = bench_peers.parse([f"--{key}={value}" for key, value in args.items()])
    return bench_peers.Work(name, "float32", args, dict.fromkeys(procedures), None, CPU, {"others": requests}, None)


def figures_of(answers):
    turns = {"seconds": [3.0, 1.0, 2.0], "cpu_seconds": [1.0, 1.0, 1.0], "peak_memory_gb": [0.5, 0.7, 0.6]}
    return {
        name: turns | {"first": answer, "answer": answer, "facts": {"versions": {}}} for name, answer in answers.items()
    }


def test_peers_scores_are_compared():
    config = models.config_of("tiny")
    records = [{"output": answer} for answer in ("Yes.", "No.", "Yes.", "No.")]
    scores = np.log([[0.6, 0.1], [0.2, 0.3], [0.5, 0.2], [0.5001, 0.2]])
    work = peers_work("scoring", ["vllm"], {"prompts": [[1, 2, 3, row] for row in range(4)]})

    def compare(difference):
        figures = figures_of({"ours": {"log_p": scores}, "vllm": {"log_p": scores + difference}})
        figures["vllm"]["seconds"] = [6.0, 3.0, 3.0]
        return bench_peers.compare(work, figures, config, 1e9, records)

    table, check = compare(9e-5)
    check()
    assert table["times_as_fast"] == {"ours": {"ours": 1.0, "vllm": 1.5}}
    assert table["procedures"]["ours"]["rows_per_second"] == 2 and table["auc"]["ours"] == 0.75
    assert table["procedures"]["ours"]["peak_memory_gb"] == 0.6
    assert table["procedures"]["vllm"]["largest_difference"] == pytest.approx(9e-5)
    needed = models.forward_operations(config, [4] * 4, 3, 4)
    assert table["procedures"]["vllm"]["share_of_matrix_rate"] == pytest.approx(needed / 3 / 1e9)
    wrong, one_row = np.zeros_like(scores), np.zeros_like(scores)
    wrong[2, 1] = 2e-4
    one_row[3, 0] = -9e-4  # another order of rows, so another AUC
    for difference in (wrong, one_row):
        with pytest.raises(AssertionError, match="vllm: log-probabilities differ"):
            compare(difference)[1]()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"losses": [2.0, 1.0002]}, "trl: losses differ"),
        ({"losses": [2.0], "grad_norms": [0.5]}, "trl: 1 steps, ours: 2"),
        ({"losses": [2.0, float("nan")]}, "trl: losses differ"),
        ({"grad_norms": [0.5, 0.5006]}, "trl: gradient norms differ"),
    ],
)
def test_peers_losses_are_compared(change, message):
    config = models.config_of("tiny")
    rows = [{"input_ids": [1, 2, 3, row]} for row in range(4)]
    work = peers_work("tuning", ["trl"], {"rows": rows}, batch_size=2)
    same = {"losses": [2.0, 1.0], "grad_norms": [0.5, 0.5]}
    figures = figures_of({"ours": same, "ours, shared prefix": same, "trl": same | change})
    _, check = bench_peers.compare(work, figures, config, 1e9, None)
    if message is None:
        check()
    else:
        with pytest.raises(AssertionError, match=message):
            check()


def test_operations_of_tuning():
    config = models.config_of("tiny")
    rows = [{"input_ids": [1, 2, 3, row]} for row in range(4)]
    weights = models.multiplying_weights(config)
    counted = models.tuning_operations(config, rows, 2)  # two batches of two rows that share three tokens
    assert counted == {"whole": 4 * weights * 16, "shared": 4 * weights * (16 - 2 * 3)}


def test_peers_get_the_batches_of_ours(tiny):
    records, _ = models.load_records(tiny_path(tiny), 12)
    rows = bench_peers.RecordTokenizer(models.load_tokenizer(), bench_peers.FRAME, 512).examples(records).rows
    ordered = bench_peers.in_our_order(rows, 4)
    assert sorted(row["input_ids"] for row in ordered) == sorted(row["input_ids"] for row in rows)
    assert [row["input_ids"] for row in ordered] != [row["input_ids"] for row in rows]
    assert max(len(row["input_ids"]) for row in ordered[:4]) == max(len(row["input_ids"]) for row in rows)
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] for row in ordered)


def test_peers_that_are_not_there_are_one_line(tmp_path, capsys):
    with pytest.raises(InputError, match="no trl there; PEERS=.* bash benchmarks/peers.sh trl makes it"):
        bench_peers.main(["--shape", "tiny", "--peers", "trl", "--peers_folder", str(tmp_path)])
    with pytest.raises(InputError, match="--peers trl: it is not compared in scoring"):
        bench_peers.main(["--shape", "tiny", "--peers", "trl", "--work", "scoring"])
    assert bench_peers.find_peers(bench_peers.parse(["--work", "scoring", "--peers_folder", str(tmp_path)])) == {}
    assert "not installed: lm-eval vllm; bash benchmarks/peers.sh lm-eval vllm" in capsys.readouterr().err


@pytest.mark.parametrize("peer", ["lm-eval", "vllm", "trl", "llama-factory"])
def test_beside_a_peer(peer, tiny):
    if not (peers.PEERS / peer).exists():
        pytest.skip(f"no {peer} at {peers.PEERS}; bash benchmarks/peers.sh {peer} installs it")
    flags = ["--shape", "pocket", "--dtype", "float32", "--rows", "6", "--batch_size", "3", "--steps", "2"]
    work = "scoring" if peer in bench_peers.PEERS_OF["scoring"] else "tuning"
    flags += ["--repeats", "1", "--threads", "1", "--work", work, "--peers", peer, "--batch_sizes", "2", "3"]
    (table,) = bench_peers.main([*tiny, *flags])["tables"]  # asserts equal scores or losses
    assert 0 < table["procedures"][peer]["largest_difference"] < 1e-4


def test_growing_memory_fails():
    flat = {(600, 1): 0.2, (6000, 1): 0.22, (150, 5): 0.3, (1500, 50): 0.3}
    bench_ranking.check_flat(flat)
    for grown in ((6000, 1), (1500, 50)):
        with pytest.raises(AssertionError, match="memory grows"):
            bench_ranking.check_flat(flat | {grown: 0.5})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux only")
def test_memory_of_ranking_is_flat(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.sys.platform", "linux")
    write_records(tmp_path / "test.json", bench_large_data.demo_records(60))
    flags = [*tiny, "--data", str(tmp_path / "test.json"), "--plain_rows", "8", "--repeats", "1"]
    report = bench_ranking.main([*flags, "--rows", "100", "--memory"])  # asserts that it is flat
    assert [(peak["films"], peak["users"]) for peak in report["peaks"]] == [(2048, 1), (6144, 1), (25, 5), (250, 50)]
    assert all(peak["gb"] > 0 for peak in report["peaks"])


def test_counted_operations(tiny):
    model = models.make_model("tiny", CPU, torch.float32, attention="eager").unload()
    hidden_states, head = parts.language_model_parts(model)
    ids = torch.randint(3072, (1, 7))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head(hidden_states(input_ids=ids)[:, -1])
    # A causal mask hides about half of the pairs that the eager products compute.
    hidden_pairs = 7 * 7 - 7 * 8 // 2
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    counted = models.forward_operations(model.config, [7], 0, heads=1)
    assert counter.get_total_flops() == pytest.approx(counted + layers * 4 * width * hidden_pairs, rel=0.01)
    # A shared prefix is paid once.
    twice = models.forward_operations(model.config, [7, 7], 0, heads=2)
    assert twice == 2 * counted and models.forward_operations(model.config, [7, 7], 3, heads=2) < twice
    weights = [layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert models.multiplying_weights(model.config) == sum(weights)
    config = models.config_of("tiny")
    config.num_key_value_heads = 1  # half as many keys and values as queries
    smaller = AutoModelForCausalLM.from_config(config)
    weights = [layer.weight.numel() for layer in smaller.modules() if isinstance(layer, torch.nn.Linear)]
    assert models.multiplying_weights(config) == sum(weights)


def test_demo_records_where_the_default_file_is_absent(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "MOVIE_TEST", tmp_path / "test.json")
    records, source = models.load_records(tmp_path / "test.json", 5)
    assert len(records) == 5 and source.startswith("demo records")


@pytest.mark.slow
def test_large_data(tiny_llama, tmp_path):
    records = bench_large_data.demo_records(10)
    bench_large_data.write_many(tmp_path / "train.json", records, 34)
    written = json.loads((tmp_path / "train.json").read_text())
    assert written[:10] == records and "(22" in written[10]["input"] and "(24" in written[33]["input"]
    write_records(tmp_path / "again.json", written)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "train.json").read_bytes() and len(written) == 34

    args = SimpleNamespace(base_model=tiny_llama, steps=2)
    figures = bench_large_data.measure_rows(1_001, records, args, tmp_path)  # as few as go to the cache
    for start in ("first", "second"):
        history = json.loads((tmp_path / start / "run.json").read_text())["results"]["history"]
        assert [entry["step"] for entry in history] == [2]  # of 96
        process = figures[f"{start} start"]
        assert 0 < process["tokenised"] < process["seconds"] and process["cpu_seconds"] > 0
        assert sys.platform != "linux" or process["own_gb"] > 0.1
    tokenising = figures["first start"]["cpu_seconds"] - figures["second start"]["cpu_seconds"]
    assert figures["tokenising"]["cpu_seconds"] == tokenising
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1 and 0 < figures["cache_gb"] < 0.01


@pytest.mark.slow
def test_number_types(tiny_llama, tiny_adapter, tiny_workspace, capsys):
    data = tiny_workspace / "rec_data" / "movie" / "test.json"
    flags = ["--base_model", str(tiny_llama), "--data", str(data), "--device", "cpu", "--rows", "20"]
    report = bench_dtypes.main([*flags, "--lora_weights", str(tiny_adapter)])
    drawn = np.random.default_rng(0).permutation(24)[:20]
    file = EvaluationSet(data)
    p_yes, aucs = {}, {}
    for name in bench_dtypes.TYPES:
        setup = ModelSetup(str(tiny_llama), "cpu", name, "none", "auto", False)
        scores = setup.scorer([file.records[row] for row in drawn], "alpaca", 512).score(
            setup.attach(str(tiny_adapter))
        )
        p_yes[name] = scores.p_yes
        aucs[name] = auc(file.labels[drawn], two_probabilities_to_score(scores.p_yes, scores.p_no))
    assert report["auc"] == aucs and report["difference"] == aucs["bfloat16"] - aucs["float32"]
    assert report["p_yes_difference"]["largest"] == abs(p_yes["float32"] - p_yes["bfloat16"]).max() > 0
    assert report["rank_correlation"] > 0.9
    assert "bfloat16 - float32: AUC " in capsys.readouterr().out
    with pytest.raises(InputError, match="--rows 99: "):
        bench_dtypes.main([*flags, "--rows", "99"])


def test_tokenising(tiny_llama, tiny_workspace):
    data = tiny_workspace / "instruction_data" / "netflix" / "train.json"
    flags = ["--base_model", str(tiny_llama), "--data", str(data), "--rows", "1", "--repeats", "1"]
    report = bench_tokenising.main(flags)  # asserts equal rows
    assert report["rows"] == bench_tokenising.BATCH + 1  # as few as go to the cache
    assert set(report["measured"]) == {"two encodes", "ours"} and report["tokens"] > 200 * report["rows"]


def test_rows_that_differ_are_no_benchmark(tiny_llama, tiny_workspace, monkeypatch):
    monkeypatch.setattr(bench_tokenising, "commonprefix", lambda pair: pair[0][:-1])
    data = tiny_workspace / "instruction_data" / "netflix" / "train.json"
    with pytest.raises(AssertionError, match="the rows differ"):
        bench_tokenising.main(["--base_model", str(tiny_llama), "--data", str(data), "--rows", "1", "--repeats", "1"])
