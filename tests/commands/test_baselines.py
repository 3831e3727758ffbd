"""Classical baselines: python -m tlrec.baselines.

1. Popularity is the smoothed like-rate of the target over all ratings of the shots; a user's rating counts once.
2. Item-kNN is the history's vote weighted by cosines; what was never rated gets the mean like-rate.
3. Histories are padded on the left, in time order where the prepared CSV tells it, else likes before dislikes; items
   outside the shots are "unknown".
4. Padding changes nothing; an empty history leaves the biases; rows are independent; SASRec's states do not see what
   comes later; order matters.
5. Each network learns a rule that needs target, history and feedback together; many targets score as each alone.
6. The state of the best validation is kept; the seed decides everything.
7. The command line writes an evaluation that the report reads, on the shots that rec_tuning.py draws.
8. What is complete is skipped, other results are refused without --overwrite; mistakes are one line.
"""

import json

import numpy as np
import pytest
import torch

from tests.support.synthetic import make_records, preference
from tlrec.baselines import counting, neural
from tlrec.baselines.order import HistoryOrder, likes_first
from tlrec.data.preferences import Item, build_record, parse_input
from tlrec.data.records import draw_shots, labels_of, read_records, write_records
from tlrec.evaluation.metrics import auc
from tlrec.evaluation.results import read_evaluation
from tlrec.files import sha256
from tlrec.report import collect

NETWORKS = [neural.SASRec, neural.GRU4Rec, neural.Caser]
# Three users: u likes a and b, not c; v likes a, not b and c; w likes c, not a.
SHOTS, LABELS = [preference("a", "c", "b"), preference("a", "b", "c"), preference("c", "", "a")], [1, 0, 0]


def test_popularity_by_hand():
    ratings = counting.ratings_of(SHOTS, LABELS)
    assert len(ratings) == 8 and sum(ratings.values()) == 4  # m = 0.5
    found = counting.Popularity(ratings).of_targets([preference(target=item) for item in "abcx"])
    assert found.tolist() == [(2 + 2.5) / (3 + 5), (1 + 2.5) / (2 + 5), (1 + 2.5) / (3 + 5), 0.5]
    letters = "abcdefghijklmnopqr"  # of one user, in overlapping windows: each rating counts once
    ratings = counting.ratings_of([preference(letters[i : i + 10], "", letters[i + 10]) for i in range(8)], [1] * 8)
    assert len(ratings) == 18


def test_item_knn_by_hand():
    # Columns over (u, v, w): a (1, 1, -1), b (1, -1, 0), c (-1, -1, 1); cosines a-b 0, a-c -1, b-c 0.
    # a and c are opposites: who likes a will not like c.
    rows = [("a", "", "c"), ("", "a", "c"), ("ab", "", "c"), ("a", "", "x"), ("x", "", "a"), ("", "", "a")]
    found = counting.ItemKNN(counting.ratings_of(SHOTS, LABELS)).of_targets([preference(*row) for row in rows])
    assert np.allclose(found, [0.25, 0.75, 0.25, 0.5, 0.5, 0.5])

    # p (1, 1, 1, -1), q (1, -1, 1, 0), r (0, 1, 1, 0): cosines p-q 1/sqrt(12), p-r 2/sqrt(8); mean 7/9.
    shots = [preference("p", "", "q"), preference("p", "q", "r"), preference("pq", "", "r"), preference("", "", "p")]
    ratings = counting.ratings_of(shots, [1, 1, 1, 0])
    mean, q, r = 7 / 9, 1 / 12**0.5, 2 / 8**0.5
    found = counting.ItemKNN(ratings).of_targets([preference("q", "r", "p"), preference("r", "q", "p")])
    assert np.allclose(found, [(q + mean) / (q + r + 1), (r + mean) / (q + r + 1)])


def test_encoding():
    ids = neural.item_ids(SHOTS)
    assert ids == {Item("a"): 2, Item("c"): 3, Item("b"): 4}
    fitted = neural.Fitted(neural.GRU4Rec, SHOTS, LABELS, SHOTS, LABELS, 4, 0, 1, 1, likes_first)
    items, feedback, targets = fitted.encode([preference("ab", "x", "c"), preference("", "", "y")])
    assert items.tolist() == [[0, 2, 4, 1], [0, 0, 0, 0]]
    assert feedback.tolist() == [[0, 2, 2, 1], [0, 0, 0, 0]]
    assert targets.tolist() == [3, 1]


def lively(network, length=4, n_items=9):
    """A network with weights of ordinary size, without dropout."""
    torch.manual_seed(0)
    model = network(n_items, length).eval()
    with torch.no_grad():
        for embedding in (model.items, model.feedback, model.targets, model.target_bias):
            embedding.weight.normal_()
        model.items.weight[0] = model.feedback.weight[0] = 0
    return model


ROWS = (
    torch.tensor([[0, 2, 3, 4], [0, 0, 1, 8], [5, 6, 7, 2], [0, 0, 0, 0]]),
    torch.tensor([[0, 2, 2, 1], [0, 0, 1, 1], [2, 2, 1, 1], [0, 0, 0, 0]]),
    torch.tensor([5, 2, 3, 4]),
)


@pytest.mark.parametrize("network", [neural.SASRec, neural.GRU4Rec])
def test_more_padding_changes_nothing_and_an_empty_history_leaves_the_biases(network):
    model, longer = lively(network), lively(network, length=7)
    weights = model.state_dict()
    if network is neural.SASRec:
        weights["positions"] = torch.cat([torch.randn(3, model.size), weights["positions"]])
    longer.load_state_dict(weights)
    items, feedback, targets = ROWS
    padded = [torch.cat([torch.zeros(4, 3, dtype=torch.long), column], dim=1) for column in (items, feedback)]
    found = neural.logits(model, ROWS)
    assert torch.allclose(neural.logits(longer, (*padded, targets)), found, atol=1e-5)
    assert torch.isclose(found[3], model.target_bias.weight[4, 0] + model.generosity.bias[0])  # an empty history


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_are_independent_and_order_matters(network):
    model, order = lively(network), torch.tensor([2, 0, 3, 1])
    found = neural.logits(model, ROWS)
    assert torch.allclose(neural.logits(model, [column[order] for column in ROWS]), found[order], atol=1e-5)
    items, feedback, targets = (column[2:3] for column in ROWS)
    swapped = items[:, [1, 2, 0, 3]], feedback[:, [1, 2, 0, 3]], targets  # the last item stays
    assert abs(neural.logits(model, swapped) - found[2]) > 1e-3


def test_sasrec_is_causal():
    model, (items, feedback, _) = lively(neural.SASRec), ROWS
    other = torch.cat([items[:, :3], torch.full((4, 1), 6)], dim=1)
    with torch.inference_mode():
        before, after = (model.states(ids, model.items(ids) + model.feedback(feedback)) for ids in (items, other))
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.isclose(before[2, 3], after[2, 3]).any()
    assert before[0, 0].abs().max() == 0  # padding


def make_taste(rows, seed):
    """Users like either vowels or consonants; labels follow. Neither target nor history alone tells anything."""
    rng = np.random.default_rng(seed)
    kinds = ("aeiouy", "bcdfgh")
    preferences, labels = [], []
    for _ in range(rows):
        own, kind = rng.integers(2, size=2)
        likes, dislikes = ("".join(rng.permutation(list(kinds[which]))[:2]) for which in (own, 1 - own))
        rest = [letter for letter in kinds[kind] if letter not in likes + dislikes]
        preferences.append(preference(likes, dislikes, rng.choice(rest)))
        labels.append(int(kind == own))
    return preferences, np.array(labels)


@pytest.mark.parametrize(("network", "epochs"), list(zip(NETWORKS, (100, 50, 50), strict=True)))
@pytest.mark.slow
def test_a_planted_rule_is_learned(network, epochs):
    (shots, labels), (valid, valid_labels), (test, test_labels) = (make_taste(200, seed) for seed in (1, 2, 3))
    arguments = (network, shots, labels, valid, valid_labels, 4)
    fitted = neural.Fitted(*arguments, seed=0, num_epochs=epochs, patience=epochs, history_of=likes_first)
    assert auc(test_labels, fitted.of_targets(test)) > 0.97
    assert fitted.valid_log_loss < 0.4 and fitted.best_step > 50
    again, same, other = (neural.Fitted(*arguments, seed, 2, 2, likes_first).of_targets(test) for seed in (0, 0, 1))
    assert np.array_equal(again, same) and not np.array_equal(again, other)

    items = [*map(Item, "aeioubcdf"), Item("never seen"), Item("nor this")]
    found = fitted.of_items(test[0], items)
    single = fitted.of_targets([preference(test[0].likes, test[0].dislikes, item) for item in items])
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), single, atol=1e-6)
    assert found[-1] == found[-2] and len(set(found)) == 10


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.slow
def test_the_best_state_is_kept_and_patience_counts_epochs(network, monkeypatch):
    (shots, labels), (valid, valid_labels) = make_taste(2700, 1), make_taste(60, 2)  # several validations in an epoch
    epochs = []
    monkeypatch.setattr(torch, "randperm", lambda n, draw=torch.randperm: epochs.append(n) or draw(n))
    wrong = 1.0 - valid_labels  # so that every step of learning is a step back
    fitted = neural.Fitted(network, shots, labels, valid, wrong, 4, 0, 30, 3, likes_first)
    model, valid_logits = fitted.model, neural.logits(fitted.model, fitted.encode(valid))
    found = torch.nn.functional.binary_cross_entropy_with_logits(valid_logits, torch.tensor(wrong).float()).item()
    assert found == fitted.valid_log_loss < 0.8
    assert len(epochs) == -(-fitted.best_step // -(-2700 // model.batch_size)) + 3
    assert model.items.weight[0].abs().max() == model.feedback.weight[0].abs().max() == 0


def write_split(folder, name, sequence):
    """`name`.json and `name`.csv of windows of four over a user's [(title, liked)], as prepare_data.py writes them."""
    records, rows = [], ["user_id,history_item_id,history_rating,history_label,item_id,rating,label,timestamp"]
    for place in range(4, len(sequence)):
        history, (target, liked) = sequence[place - 4 : place], sequence[place]
        likes, dislikes = ([one for one, like in history if like == kind] for kind in (True, False))
        records.append(build_record(preference(likes, dislikes, target), liked))
        ids, answers = ",".join(f'""{one}""' for one, _ in history), [int(like) for _, like in history]
        rows.append(f'1,"[{ids}]",[],"{answers}",{target},5,{int(liked)},{place}')
    write_records(folder / f"{name}.json", records)
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder / f"{name}.json", [parse_input(record["input"]) for record in records], labels_of(records)


def test_histories_are_read_in_time_order_where_the_table_says_it(tmp_path):
    sequence = list(zip("abcdefghijkl", [bool(int(answer)) for answer in "101001101011"], strict=True))
    train, test = write_split(tmp_path, "train", sequence), write_split(tmp_path, "test", sequence[::-1])
    order = HistoryOrder(train, test)
    assert order.said.startswith("in time order")
    for (_, preferences, _), told in ((train, sequence), (test, sequence[::-1])):
        for place, one in enumerate(preferences):
            assert order.history_of(one) == [(Item(title), liked) for title, liked in told[place : place + 4]]
    good = (tmp_path / "test.csv").read_text()
    for damaged in (good.replace(",0,4\n", ",1,4\n"), good.replace("a", "b"), good[:-20]):
        (tmp_path / "test.csv").write_text(damaged)
        assert damaged != good and not HistoryOrder(train, test).said.startswith("in time order")
    (tmp_path / "train.csv").unlink()
    order = HistoryOrder(train, test)
    assert order.said == f"likes, then dislikes ({tmp_path / 'train.csv'} is not there, or not of these records)"
    assert order.history_of(test[1][0]) == likes_first(test[1][0])


# ------------------------------------------------------------------------------------------------------ command line


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("work space")
    for name, users, seed in (("train", 20, 1), ("valid", 5, 61), ("test", 10, 76)):
        write_records(root / f"{name}.json", make_records(users, seed))
    return {name: root / f"{name}.json" for name in ("train", "valid", "test")}


@pytest.fixture(scope="module")
def baselines(run_script, paths):
    """baselines(output, flags, test=FILE, ...): (status, standard output, standard error)."""

    def run(output, flags, **changes):
        data = paths | changes
        words = ["--train_data_path", data["train"], "--val_data_path", data["valid"], "--test_data_path", data["test"]]
        words += ["--output_dir", output, "--target", "movie", *flags.split()]
        return run_script("tlrec/baselines/__main__.py", *words)

    return run


@pytest.fixture(scope="module")
def results(baselines, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    status, _, err = baselines(output, "--sample 16 -1 --seed 3 --num_epochs 3")
    assert status == 0, err
    return output


def test_files_are_those_of_an_evaluation(results, paths):
    metrics, predictions = read_evaluation(results / "popularity" / "3_16")
    shots = draw_shots(read_records(paths["train"]), 16, 3)
    ratings = counting.ratings_of([parse_input(record["input"]) for record in shots], labels_of(shots))
    expected = counting.Popularity(ratings).of_targets([parse_input(r["input"]) for r in read_records(paths["test"])])
    assert np.allclose(predictions["p_yes"], expected)
    assert np.allclose(predictions["p_yes"] + predictions["p_no"], 1)
    assert set(metrics["floors"]) == {"history", "item", "history + item"}
    run = metrics["run"]
    assert set(run["data"]) == {"train", "test"}  # nothing selects
    facts = {"stage": "baseline", "method": "popularity", "shots": 16, "seed": 3, "target": "movie", "adapter": None}
    assert {name: run[name] for name in facts} == facts
    caser = json.loads((results / "caser" / "3_-1" / "metrics.json").read_text())["run"]
    assert caser["best_step"] > 0 and set(caser["data"]) == {"train", "valid", "test"}
    assert caser["identity"]["order of histories"] == "likes, then dislikes"
    workspace = collect.collect(results)  # the report reads them
    found = [(one.facts["method"], one.facts["shots"], one.facts["seed"]) for one in workspace.evaluations]
    names = ("popularity", "item-kNN", "SASRec", "GRU4Rec", "Caser")
    assert sorted(found) == sorted((name, shots, 3) for name in names for shots in (16, -1)) and not workspace.problems


def test_same_command_same_bytes_and_nothing_twice(baselines, results, tmp_path):
    flags = "--method sasrec --sample 16 --seed 3 --num_epochs 3"
    baselines(tmp_path, flags)
    written = (tmp_path / "sasrec" / "3_16" / "predictions.jsonl").read_bytes()
    assert written == (results / "sasrec" / "3_16" / "predictions.jsonl").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*")}
    assert baselines(tmp_path, flags)[1] == f"complete already: {tmp_path / 'sasrec' / '3_16'}\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*")} == times


def test_other_results_are_refused(baselines, paths, tmp_path):
    flags, folder = "--method popularity --sample 16 --seed 3 --num_epochs", tmp_path / "popularity" / "3_16"
    baselines(tmp_path, f"{flags} 3")
    before = (folder / "metrics.json").read_bytes()
    digests = [sha256(paths[name])[:12] for name in ("test", "valid")]
    for epochs, changes, other in (
        (5, {}, "--num_epochs 3, not 5"),
        (3, {"test": paths["valid"]}, f"test data {digests[0]}, not {digests[1]}"),
    ):
        status, _, err = baselines(tmp_path, f"{flags} {epochs}", **changes)
        expected = f"error: --output_dir {folder}: holds another run's result: {other}; give --overwrite or another"
        assert status == 2 and err.startswith(expected)
    assert (folder / "metrics.json").read_bytes() == before
    assert baselines(tmp_path, f"{flags} 5 --overwrite")[0] == 0
    assert json.loads((folder / "metrics.json").read_text())["run"]["arguments"]["num_epochs"] == 5


def test_mistakes_are_one_line(baselines, paths, tmp_path):
    broken, out, file = tmp_path / "broken.json", tmp_path / "out", tmp_path / "file"
    row = build_record(preference("a", "b", "c"), True)
    write_records(broken, [row, {**row, "input": "User Preference: a", "output": "No."}])
    file.write_text("")
    for output, flags, changes, message in (
        (out, "--sample 201", {}, f"--sample 201: {paths['train']} has 1 to 200 rows, or -1 for all\n"),
        (out, "--patience 0", {}, "--patience 0: give 1 or more\n"),
        (out, "--seed -1", {}, "--seed -1: give 0 or more\n"),
        (out, "--sample 1", {"valid": broken}, f"{broken}: row 2: 'input' does not parse: expected 'User Preference: "),
        (file / "x", "--sample 1", {}, f"--output_dir {file}/x/popularity/0_1: cannot be written to: "),
    ):
        status, _, err = baselines(output, flags, **changes)
        assert status == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not out.exists()
