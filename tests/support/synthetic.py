"""Made-up preferences, records and catalogues, and a workspace of made-up runs, written by the writers that the scripts
use."""

import csv

import numpy as np

from tlrec.data.preferences import Item, Preference, build_record, parse_input
from tlrec.data.published import published_name
from tlrec.data.records import labels_of, write_records
from tlrec.data.users import infer_users
from tlrec.evaluation.evaluation_set import answered
from tlrec.evaluation.floors import floor_scores
from tlrec.evaluation.results import summarise, write_evaluation
from tlrec.runs import describe_adapter, describe_data, describe_run, write_run


def preference(likes=(), dislikes=(), target="T", kind="movie"):
    """A Preference of Items, or of titles, which may be single letters."""
    likes, dislikes = (tuple(map(_item, items)) for items in (likes, dislikes))
    return Preference(likes, dislikes, _item(target), kind)


def _item(title):
    return Item(title) if isinstance(title, str) else title


def write_catalogue(path, rows, columns=("title",)):
    """An item_mapping.csv of these rows, or titles."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *([row] if isinstance(row, str) else row for row in rows)])
    return path


def windows(rated, size=10):
    """[(Preference, liked)] of one user's ratings, (title, liked) in time order: `size` in a row predict the next."""
    found = []
    for before, (target, liked) in ((rated[k - size : k], rated[k]) for k in range(size, len(rated))):
        lists = ([title for title, its in before if its == wanted] for wanted in (True, False))
        found.append((preference(*lists, target), liked))
    return found


def make_records(users, seed, windows_each=10, items=300):
    """Sliding windows of `users` made-up users over a made-up catalogue: ten ratings as history, the next as target."""
    rng = np.random.default_rng(seed)
    appeal = np.random.default_rng(99).normal(0, 0.7, items)
    records = []
    for _ in range(users):
        mood = rng.normal(0.2, 1.0)
        watched = rng.permutation(items)[: windows_each + 10].tolist()
        rated = [(f"Made-up Film {i}", bool(rng.random() < 1 / (1 + np.exp(-(mood + appeal[i]))))) for i in watched]
        records += [build_record(*window) for window in windows(rated)]
    return records


def make_data(root):
    """rec_data/movie/{train,valid,test}.json and instruction_data/netflix/train.json below `root`; the test's paths."""
    paths = {}
    for name, path, users, seed in (
        ("train", "rec_data/movie/train.json", 60, 1),
        ("valid", "rec_data/movie/valid.json", 15, 61),
        ("test", "rec_data/movie/test.json", 30, 76),
        ("source", "instruction_data/netflix/train.json", 50, 201),
    ):
        paths[name] = root / path
        write_records(paths[name], make_records(users, seed))
    return paths


def tune(folder, paths, stage, start=None, shots=None, seed=0, history=(), **facts):
    """An adapter folder as a tuner leaves it, but for tensors."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(f"{stage} {shots} {seed}".encode())
    learning_rate = facts.pop("learning_rate", 1e-4)
    truncated = facts.pop("truncated", 0)
    write_run(
        folder,
        "rec_tuning.py" if stage == "few-shot" else "ins_tuning.py",
        {"learning_rate": learning_rate, "num_epochs": 3, "seed": seed, "output_dir": folder},
        {"train": paths["train" if stage == "few-shot" else "source"], "valid": paths["valid"]},
        {
            "history": [{"step": step, "eval_auc": value, "eval_loss": 1 - value} for step, value in history],
            "best_step": max(history, key=lambda entry: entry[1])[0] if history else None,
            "truncated": {"train": truncated, "valid": 0},
        },
        stage=stage,
        start_adapter=describe_adapter(start),
        shots=shots,
        seed=seed,
        frame="alpaca",
        base_model="base_model/pocket-llama/",
        target="movie",
        **facts,
    )
    return folder


def score(records, skill, seed):
    """(p_yes, p_no): chance at skill 0, better with more; a mean probability of 0.9 on the two answers."""
    rng = np.random.default_rng(seed)
    rates = np.array([len(p.likes) / len(p.history) for p in (parse_input(record["input"]) for record in records)])
    signal = skill * (labels_of(records) - 0.5) + 2.5 * (rates - 0.5) * (skill > 0)
    probability = 1 / (1 + np.exp(-(signal + rng.normal(0, 1, len(records)))))
    mass = rng.uniform(0.85, 0.95, len(records))
    return probability * mass, (1 - probability) * mass


def evaluate(folder, test_path, records, p_yes, p_no, adapter=None, train_records=None, scoring=None):
    """metrics.json and predictions.jsonl as evaluate.py leaves them."""
    labels, preferences = labels_of(records), [parse_input(record["input"]) for record in records]
    users = infer_users(preferences, labels)
    floors = floor_scores(preferences, train_records and answered(train_records, "train"))
    metrics = summarise(labels, p_yes, p_no, users, floors)
    test = describe_data(test_path) | {"published": published_name(test_path)}
    metrics["run"] = describe_run(
        "evaluate.py",
        {"cutoff_len": 512, "quantization": "none"},
        {"test": test},
        {"truncated": {"test": 0}},
        adapter=describe_adapter(adapter),
        target="movie",
        base_model="base_model/pocket-llama/",
        frame="alpaca",
        scoring=scoring,
    )
    write_evaluation(folder, metrics, labels, p_yes, p_no, users, floors)
    return folder
