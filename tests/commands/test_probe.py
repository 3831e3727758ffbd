"""What a model knows beforehand: python -m tlrec.probe.

1. Log-probabilities, greedy completion, ranks and means are those of a plain loop over transformers' logits, for the
   base alone and with an adapter, in families whose caches differ, in any batch.
2. Years: the last one in parentheses; authors where the catalogue has creators; the rest is left out and counted.
3. The shuffle uses each year once, never the title's own; the candidates hold both and are distinct; all of it seeded.
4. Halves: of the row with the most liked items; another user's is as long, and holds nothing that both have rated.
5. Intervals are those of Student's t.
6. probe.json is whole and checked; the report shows its numbers, and lists a damaged one.
7. Same command, same bytes but for the times; what exists is kept.
8. Mistakes are one line before torch is imported, and --help is there without numpy.
"""

import json
import os
from collections import Counter

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import sem, t
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tests.support.mistakes import assert_mistakes
from tests.support.models import make_family
from tests.support.synthetic import preference, write_catalogue
from tlrec.data.catalogue import read_catalogue
from tlrec.data.preferences import build_record, read_checked
from tlrec.data.records import labels_of, write_records
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.probe import knowledge
from tlrec.probe.questions import history_questions, title_questions
from tlrec.scoring.completions import score_completions

pytestmark = pytest.mark.slow

SCRIPT = "tlrec/probe/__main__.py"
CPU = torch.device("cpu")
WORDS = ["Harbor", "Night", "Golden", "Secret", "Lighthouse", "Quiet"]
TITLES = [f"{a} {b} ({2101 + (7 * n) % 12})" for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a != b)]
BOOKS = [("Emma", "Ada Norwick"), ("Emma", "Ben Zell"), ("The Reef (2101)", "Ada Norwick"), ("Snow, Ice", "Ben Zell")]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("items") / "items.csv", TITLES)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """16 users of one row each, with titles of their own."""
    rng, rows = np.random.default_rng(3), []
    for user in range(16):
        items = [f"{WORDS[rng.integers(6)]} {user}{place} ({2101 + place})" for place in range(7)]
        rows.append(build_record(preference(items[:6], items[6:], f"Target {user}"), user % 2))
    path = tmp_path_factory.mktemp("records") / "rows.json"
    write_records(path, rows)
    return path


@pytest.fixture
def probe(run_script, tiny_llama, tmp_path):
    """probe("--flag", value, ...): (what it printed, probe.json) of the tiny model, or another base."""

    def run(*flags, base=tiny_llama, folder=tmp_path / "out"):
        model = ["--base_model", base, "--device", "cpu", "--dtype", "float32"]
        status, out, err = run_script(SCRIPT, *model, "--output_dir", folder, *flags)
        assert status == 0, err
        return out, knowledge.read_probe(folder)

    return run


def plain(model, tokenizer, context, completions):
    """log_p and greedy of each completion by one plain forward pass each."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    alone, *texts = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in [context, *map(context.__add__, completions)]
    )
    start = len(os.path.commonprefix([alone, *texts]))
    found = []
    for ids in texts:
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([bos + ids])).logits[0].float().log_softmax(-1)
        rows = [(log_p[len(bos) + place - 1], ids[place]) for place in range(start, len(ids))]
        total = sum(row[token].item() for row, token in rows)
        found.append((total, all(row.argmax().item() == token for row, token in rows)))
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3_5", "gemma2", "bloom"])
def test_completions_are_those_of_a_plain_loop(family, tmp_path):
    folder = make_family(tmp_path, family)
    tokenizer, model = load_tokenizer(folder), load_base_model(folder, CPU, torch.float32)
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    questions = [
        ('"Harbor (', ("2101", "2150", "1", "19")),
        ('"Harbor" written by ', ("Ada Norwick", "Ben")),
        ('"Night, the (', ("2150", "2101 ")),
        ('User Preference: "Harbor of the Night (2101)", ', ('"Golden (2102)", "Quiet"', '"Ice"')),
    ]
    # what the model itself would write next, as a completion
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = bos + tokenizer('"Night (', add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        text = tokenizer.decode([*ids, other(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()])
    questions.append(('"Night (', (text.partition('"Night (')[2] or "1", "2101")))
    expected = [plain(other, tokenizer, *question) for question in questions]
    for budget in (1, None):
        for found, wanted in zip(score_completions(model, tokenizer, questions, budget), expected, strict=True):
            np.testing.assert_allclose(found[0], [log_p for log_p, _ in wanted], atol=1e-4)
            assert found[1].tolist() == [greedy for _, greedy in wanted]


def test_numbers_are_those_of_a_plain_loop(probe, tiny_llama, tiny_adapter, catalogue, records):
    flags = ["--items", catalogue, "--records", records, "--max_items", 12, "--seed", 5, "--candidates", 4]
    out, found = probe(*flags, "--lora_weights", tiny_adapter)
    _, preferences = read_checked(records)
    labels = labels_of(read_checked(records)[0])
    titles = title_questions(read_catalogue(catalogue), 4, 12, 5).rows
    histories = history_questions(preferences, labels, records, 12, 5).rows
    assert len(titles) == len(histories) == 12 == found["titles"]["n"] == found["histories"]["n"]
    tokenizer = load_tokenizer(tiny_llama)
    base = LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), tiny_adapter)
    assert [model["adapter"] for model in found["models"]] == [None, str(tiny_adapter)]
    means = []
    for model, numbers in zip((base, adapted), found["models"], strict=True):
        scores = [plain(model.eval(), tokenizer, row.context, row.completions) for row in titles]
        for side, name in enumerate(("true", "shuffled")):
            log_p = [row[side][0] for row in scores]
            rank = [sorted((value for value, _ in row), reverse=True).index(row[side][0]) + 1 for row in scores]
            values = {"log_p": log_p, "rank": rank, "greedy": [row[side][1] for row in scores]}
            for key, column in values.items():
                assert numbers["titles"][key][name]["value"] == pytest.approx(np.mean(column), abs=1e-4)
        preferred = np.mean([row[0][0] > row[1][0] for row in scores])
        assert numbers["titles"]["preferred"]["value"] == pytest.approx(preferred)
        scores = [plain(model, tokenizer, row.context, row.completions) for row in histories]
        for side, name in enumerate(("true", "shuffled")):
            mean = np.mean([pair[side][0] / row.size for pair, row in zip(scores, histories, strict=True)])
            assert numbers["histories"]["log_p"][name]["value"] == pytest.approx(mean, abs=1e-4)
            means.append(mean)
        preferred = np.mean([pair[0][0] > pair[1][0] for pair in scores])
        assert numbers["histories"]["preferred"]["value"] == pytest.approx(preferred)
        difference = numbers["histories"]["log_p"]["difference"]["value"]
        assert difference == pytest.approx(means[-2] - means[-1], abs=1e-4)
    assert abs(means[0] - means[2]) > 0.1  # the adapter is on, and the base alone without it
    assert f"{means[0]:.2f} [" in out and f"{means[2]:.2f} [" in out and f"with {tiny_adapter}" in out
    assert found["run"]["adapter"]["path"] == str(tiny_adapter) and found["run"]["data"]["records"]["rows"] == 16


def test_years_and_authors(tmp_path):
    titles = ["1984 (1984)", "Harbor", "Ice (1990) (V)", "Ice (1990)", "Ice (1990)", "(1985)", "Sea (1985) II (1986)"]
    titles += ["Night (1987)", "Golden(1988)"]
    questions = title_questions(read_catalogue(write_catalogue(tmp_path / "a.csv", titles)), 3)
    asked = [row.context + row.completions[0] for row in questions.rows]
    assert asked == ['"1984 (1984', '"Ice (1990', '"Ice (1990', '"Sea (1985) II (1986', '"Night (1987']
    assert (questions.kind, questions.left_out) == ("year", 3)

    questions = title_questions(read_catalogue(write_catalogue(tmp_path / "b.csv", BOOKS, ("title", "creator"))), 10)
    asked = [(row.context, row.completions) for row in questions.rows]
    names = {"Ada Norwick": ("Ada Norwick", "Ben Zell"), "Ben Zell": ("Ben Zell", "Ada Norwick")}
    assert asked == [(f'"{title}" written by ', names[creator]) for title, creator in BOOKS]
    assert (questions.kind, questions.left_out) == ("author", 0)


def test_shuffle_and_candidates(catalogue):
    read = read_catalogue(catalogue)
    questions = title_questions(read, 5)
    true, shuffled = zip(*(row.completions[:2] for row in questions.rows), strict=True)
    assert Counter(true) == Counter(shuffled) and all(a != b for a, b in zip(true, shuffled, strict=True))
    assert [f"{row.context[1:]}{row.completions[0]})" for row in questions.rows] == TITLES
    for row in questions.rows:
        assert len(set(row.completions)) == 5 == len(row.completions) and set(row.completions) <= set(true)
    assert questions == title_questions(read, 5) != title_questions(read, 5, seed=1)
    drawn = title_questions(read, 5, max_items=7)
    contexts = [row.context for row in drawn.rows]
    assert len(contexts) == 7 and contexts == [row.context for row in questions.rows if row.context in contexts]
    assert [row.context for row in title_questions(read, 5, 7, seed=1).rows] != contexts


def test_a_shuffle_that_has_hardly_room(tmp_path):
    rows = [f"{word} (1990)" for word in WORDS[:3]] + [f"{word} (199{n})" for n, word in enumerate(WORDS[:3], 1)]
    catalogue = read_catalogue(write_catalogue(tmp_path / "a.csv", rows))
    for seed in range(20):
        questions = title_questions(catalogue, 2, seed=seed)
        assert all(row.completions[0] != row.completions[1] for row in questions.rows)
        assert Counter(row.completions[1] for row in questions.rows)["1990"] == 3


def test_halves():
    rows = [preference("abcd", target="e"), preference("abcde", target="f"), preference("pqrsdv"), preference("m")]
    labels = np.array([1, 1, 0, 1])
    questions = history_questions(rows, labels, "f")
    # The first user's second half is d e, and the second user's s d v: both know d, which leaves one title each.
    first, second = 'User Preference: "a", "b", "c", ', 'User Preference: "p", "q", "r", '
    asked = [(row.context, row.completions, row.size) for row in questions.rows]
    assert asked == [(first, ('"e"', '"s"'), 1), (second, ('"s"', '"e"'), 1)]
    assert questions.left_out == 1  # the user of one liked item


def test_halves_of_many_users(records):
    _, preferences = read_checked(records)
    labels = np.arange(16) % 2
    questions = history_questions(preferences, labels, records)
    halves = [", ".join(map(str, one.likes[3:])) for one in preferences]
    others = [halves.index(row.completions[1]) for row in questions.rows]
    assert [row.completions[0] for row in questions.rows] == halves and {row.size for row in questions.rows} == {3}
    assert all(other != user for user, other in enumerate(others)) and len(set(others)) > 6
    assert questions == history_questions(preferences, labels, records)
    drawn = history_questions(preferences, labels, records, max_users=5)
    assert len(drawn.rows) == 5 and drawn.left_out == 0


def test_intervals_are_those_of_student():
    values = np.random.default_rng(1).normal(size=(30, 2))
    scores = [(np.array([value, 0.0]), np.array([value > 1, False])) for value in values[:, 0]]
    numbers = knowledge.title_numbers(scores)
    assert numbers["log_p"]["difference"]["value"] == pytest.approx(values[:, 0].mean())
    interval = t.interval(0.95, 29, values[:, 0].mean(), sem(values[:, 0]))
    assert numbers["log_p"]["difference"]["interval"] == pytest.approx(interval)
    assert numbers["preferred"]["value"] == pytest.approx((values[:, 0] > 0).mean())
    assert numbers["rank"]["true"]["value"] == pytest.approx((values[:, 0] < 0).mean() + 1)
    equal = knowledge.title_numbers([(np.zeros(3), np.zeros(3, bool))] * 2)
    assert (equal["preferred"]["value"], equal["rank"]["true"]["value"]) == (0.5, 2.0)


def test_report(probe, run_script, catalogue, records, tiny_adapter, tmp_path):
    root = tmp_path / "work"
    flags = ["--items", catalogue, "--records", records, "--lora_weights", tiny_adapter]
    _, found = probe(*flags, folder=root / "probes" / "one")
    (root / "two").mkdir()
    damaged = found | {"models": [found["models"][0] | {"titles": {"greedy": 1}}]}
    (root / "two" / "probe.json").write_text(json.dumps(damaged))
    assert "1 damaged or unfinished runs" in run_script("tlrec/report/__main__.py", root)[1]
    page = (root / "report" / "results.md").read_text()
    assert "## What the model knows beforehand" in page
    assert all(sentence in page for sentence in knowledge.MEANING.values())
    numbers = found["models"][1]["titles"]["log_p"]["difference"]
    low, high = numbers["interval"]
    assert f"| {numbers['value']:+.2f} \\[{low:+.2f}, {high:+.2f}\\] |" in page
    assert page.count("| base alone |") == page.count(f"| with {tiny_adapter} |") == 2
    assert "| two | " in page and "probe.json: damaged: " in page
    assert "30 titles completed with release years" in page and "16 users liked, 3.0 titles each" in page


def test_same_command_same_bytes_and_what_exists_is_kept(probe, run_script, tiny_llama, catalogue, tmp_path):
    _, one = probe("--items", catalogue)
    before = (tmp_path / "out" / "probe.json").read_bytes()
    flags = ["--base_model", tiny_llama, "--items", catalogue, "--output_dir", tmp_path / "out"]
    status, _, err = run_script(SCRIPT, *flags)
    said = f"error: --output_dir {tmp_path}/out/probe.json: exists; give another --output_dir, or --overwrite\n"
    assert (status, err) == (2, said)
    assert (tmp_path / "out" / "probe.json").read_bytes() == before
    _, two = probe("--items", catalogue, "--overwrite")
    assert {**one, "run": None} == {**two, "run": None}
    _, other = probe("--items", catalogue, "--overwrite", "--seed", 1)
    assert other["models"] != one["models"]


def test_mistakes(tiny_llama, catalogue, records, tmp_path):
    files = {
        "names.csv": "item_id,name\n1,Harbor\n",
        "plain.csv": "title\nHarbor\nHarbor\nNight\n",
        "one.csv": "title\nHarbor (1990)\n",
        "authors.csv": "title,creator\nHarbor,Ada\nNight,\n",
        "free.json": json.dumps([{"instruction": "i", "input": "free text", "output": "o"}]),
        "form.json": json.dumps([{"instruction": "i", "input": "free text", "output": "Yes."}]),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    write_records(tmp_path / "alone.json", [build_record(preference("abcd"), True)])
    items, rows = f"--items {catalogue} ", f"--records {records} "
    cases = [
        ("", "nothing to ask: give a catalogue with --items, records with --records, or both"),
        (items + "--max_items 1", "--max_items 1: give 2 or more"),
        (items + f"--output_dir {tmp_path}/one.csv", f"--output_dir {tmp_path}/one.csv/probe.json: "),
        (rows + f"--base_model {tmp_path}/none", f"--base_model {tmp_path}/none: no such folder"),
        (rows + f"--lora_weights {tmp_path}", f"--lora_weights {tmp_path}: no adapter_config.json in this folder"),
    ]
    for flag, name, message in (
        ("--items", "absent.csv", "no such file"),
        ("--items", "names.csv", "line 1: no column 'title'; found 'item_id', 'name'"),
        ("--items", "plain.csv", "no title ends in a year ('Title (1994)'), and no column 'creator' names authors"),
        ("--items", "one.csv", "1 titles, and 1 of them have the year 1990; they cannot be shuffled"),
        ("--items", "authors.csv", "line 3: 'creator' is missing"),
        ("--records", "free.json", "no row is answered Yes. or No.; give labelled preference records"),
        ("--records", "form.json", "row 1: 'input' does not parse"),
        ("--records", "alone.json", "1 users, 1 of them with two liked items or more, and 0 who can be compared with"),
    ):
        cases.append((f"{flag} {tmp_path}/{name}", f"{tmp_path}/{name}: {message}"))
    assert_mistakes(SCRIPT, cases, "--base_model", tiny_llama, "--output_dir", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "alone.json"])
