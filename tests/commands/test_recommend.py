"""The top of a catalogue for one user: python -m tlrec.recommend.

1. Each item's log-probabilities are those of `score_records` on its record, within 1e-4, also for titles that hold Yes,
   No, quotes and one another's beginnings, with the adapter's own prompt frame; the list is in their order.
2. The same command writes the same bytes; the order of the catalogue changes nothing.
3. What the user has rated is left out, however it is spelt in the catalogue; a repeated item counts once.
4. A row of a record file gives what its titles give; unlabelled rows too.
5. --explain: the scores of the records that lack one item of the history each.
6. Titles in another spelling: an error of one line that lists the nearest, a question on a terminal, --as_written;
   what is near nothing is taken as it is, and said.
7. Books are known by title and creator; a title of several books is asked about.
8. A served model gives what base and adapter give.
9. JSON and CSV hold the same; Parquet is read as CSV is.
10. Mistakes are one line before torch is imported, --help is there without numpy, and what existed is kept.
"""

import io
import json
import shutil
import sys
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.hostile import serving
from tests.support.mistakes import assert_mistakes
from tests.support.served import completions, like_vllm
from tests.support.synthetic import preference, write_catalogue
from tlrec.data.catalogue import Catalogue, read_catalogue, typed_item
from tlrec.data.preferences import Item, build_record, without_item
from tlrec.data.records import write_records
from tlrec.errors import InputError
from tlrec.model.adapters import attach_adapter
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.recommend.user import item_meant
from tlrec.runs import write_run
from tlrec.scoring.records import score_records

SCRIPT = "tlrec/recommend/__main__.py"
TITLES = [
    "No Safe Place (2101)",
    "Yes",
    "No",
    'Say "Yes." or "No."',
    "Harbor",
    "Harbor of the Night",
    "Harbor (2101)",
    "Lighthouse, The (2102)",
    "Éa, or the {input}",
    "Night of the Harbor, and of the Night behind it",
    "Quiet Golden Secret (2150)",
]
ITEMS = [Item(title) for title in TITLES]
LIKED, DISLIKED = [TITLES[7], TITLES[4]], [TITLES[8]]
CANDIDATES = [item for item in ITEMS if item.title not in LIKED + DISLIKED]
BOOKS = [("Emma", "Ada Norwick"), ("Emma", "Ben Zell"), ("The Reef", "Ada Norwick"), ("Snow, Ice", 'Ben "B." Zell')]


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "items.csv", TITLES)


@pytest.fixture
def recommend(run_script, tiny_llama, tiny_adapter, catalogue):
    """recommend("--flag", value, ...) with the tiny model, and its adapter and the catalogue, which may be replaced."""

    def run(*flags, adapter=tiny_adapter, items=catalogue):
        model = ["--base_model", tiny_llama, "--lora_weights", adapter, "--device", "cpu", "--dtype", "float32"]
        return run_script(SCRIPT, *model, "--items", items, *flags)

    return run


@pytest.fixture
def listed(recommend, tmp_path):
    """listed("--flag", value, ...): (rows of the list of all candidates, what was printed)."""

    def run(*flags, **replaced):
        output = tmp_path / "new" / "list.json"
        status, out, err = recommend("--top", 99, *flags, "--output", output, "--overwrite", **replaced)
        assert status == 0, err
        return json.loads(output.read_text()), out

    return run


@pytest.fixture(scope="module")
def own_scores(tiny_llama, tiny_adapter):
    """own_scores(records, frame): (n, 2) of score_records, with the adapter."""
    model = attach_adapter(load_base_model(tiny_llama, torch.device("cpu"), torch.float32), tiny_adapter)

    def score(records, frame="alpaca"):
        scores = score_records(model, load_tokenizer(tiny_llama), records, load_frame(frame))
        return np.stack([scores.p_yes, scores.p_no], axis=1)

    return score


def record(likes, dislikes, target, kind="movie", quoted=False):
    return build_record(preference(likes, dislikes, target, kind), True, quoted)


def by_item(rows):
    return {(row["title"], row["creator"]): [row["p_yes"], row["p_no"]] for row in rows}


def assert_scores(rows, items, scores):
    """The list has these items with these scores, in their order."""
    found = by_item(rows)
    assert set(found) == {(item.title, item.creator) for item in items} and len(rows) == len(items)
    np.testing.assert_allclose([found[item.title, item.creator] for item in items], scores, rtol=1e-4)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    p_yes = [row["p_yes"] for row in rows]
    assert p_yes == sorted(p_yes, reverse=True) and p_yes[0] > 1.05 * p_yes[-1]


# ----------------------------------------------------------------------------------------------- scores and their order

HISTORY = ["--liked", *LIKED, "--disliked", *DISLIKED]


def test_scores_order_and_files(recommend, listed, own_scores, tmp_path):
    rows, out = listed(*HISTORY)
    assert_scores(rows, CANDIDATES, own_scores([record(LIKED, DISLIKED, item) for item in CANDIDATES]))
    assert list(rows[0]) == ["rank", "title", "creator", "p_yes", "p_no"]
    lines = out.splitlines()
    assert lines[0] == "candidates: 8; rated by the user and left out: 3"
    assert lines[1] == "--top 99: there are only 8 candidates; all are listed"
    printed = [line for line in lines if line.strip()][-9:]
    assert printed[0].split() == ["rank", "title", "P(Yes)", "P(No)"]
    for line, row in zip(printed[1:], rows, strict=True):
        assert line.split() == [str(row["rank"]), *row["title"].split(), f"{row['p_yes']:.4f}", f"{row['p_no']:.4f}"]
    assert listed(*HISTORY)[0] == rows

    (tmp_path / "top.csv").write_text("old")
    assert recommend(*HISTORY, "--top", 3, "--output", tmp_path / "top.csv", "--overwrite")[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "top.csv", na_filter=False), pd.DataFrame(rows[:3]))

    backwards, _ = listed(*HISTORY, items=write_catalogue(tmp_path / "backwards.csv", TITLES[::-1]))
    assert {key: pytest.approx(value, rel=1e-4) for key, value in by_item(rows).items()} == by_item(backwards)


def test_what_the_adapter_keeps_of_its_tuning(recommend, listed, own_scores, tiny_adapter, tmp_path):
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    write_run(adapter, "rec_tuning.py", {}, {}, {}, scoring={"frame": "tallrec"})
    items, flags = [item for item in ITEMS if item.title not in LIKED], ["--liked", *LIKED]
    records = [record(LIKED, [], item) for item in items]
    for frame, more in ("tallrec", []), ("alpaca", ["--prompt_frame", "alpaca"]):
        assert_scores(listed(*flags, *more, adapter=adapter)[0], items, own_scores(records, frame))
    assert np.abs(own_scores(records, "tallrec") / own_scores(records, "alpaca") - 1).max() > 0.01

    cut = " of 9 prompts were too long, so the oldest history items were cut\n"
    write_run(adapter, "rec_tuning.py", {}, {}, {}, scoring={"cutoff_len": 130})
    out = listed(*flags, adapter=adapter)[1]
    assert cut in out and "scored with cutoff_len 130, dtype float32, quantization none, attention " in out
    base = dict.fromkeys(("config", "tokenizer", "weights"), "another")
    write_run(adapter, "rec_tuning.py", {}, {}, {}, scoring={"cutoff_len": 130}, base=base)
    status, out, err = recommend(*flags, "--cutoff_len", 200, "--other_base", adapter=adapter)
    assert status == 0 and cut not in out and "; tuned with cutoff_len 130\n" in out, err
    assert err.startswith(f"warning: --lora_weights {adapter}: was tuned on another base model")
    status, out, err = recommend(*flags, adapter=adapter)
    assert status == 2 and err.startswith(f"error: --lora_weights {adapter}: was tuned on another base model")


# ------------------------------------------------------------------------------------------------ catalogue and history


def test_what_has_been_rated_is_left_out(listed, tmp_path):
    titles = ["HARBOR  of the night", "Harbor", "Lighthouse, The (2102)", "Harbor", "E\u0301a", "Yes", "Yes"]
    items = write_catalogue(tmp_path / "spelt.csv", titles)
    rows, out = listed("--liked", "Harbor of the Night", "--disliked", "Éa", items=items)
    assert {row["title"] for row in rows} == {"Harbor", "Lighthouse, The (2102)", "Yes"}
    repeated = f"{items}: 2 rows repeat an earlier item and are left out\n"
    assert out.startswith(repeated + "candidates: 3; rated by the user and left out: 2\n")


def test_a_row_gives_what_its_titles_give(listed, tmp_path):
    asked = record(LIKED, [*DISLIKED, "Out of Print"], "Harbor (2101)") | {"output": ""}
    write_records(tmp_path / "rows.json", [record(["Yes"], ["No"], "Harbor"), asked])
    rows, out = listed("--record", tmp_path / "rows.json", "--row", 2)
    assert rows == listed(*HISTORY, "Out of Print", "--as_written")[0]
    assert out.startswith('1 of 4 history items are not in the catalogue: "Out of Print"\n')
    ranks = {row["title"]: row["rank"] for row in rows}
    assert f'the row\'s own target, "Harbor (2101)", is at rank {ranks["Harbor (2101)"]} of 8\n' in out


def test_explain(recommend, listed, own_scores, tmp_path):
    rows, out = listed(*HISTORY, "--top", 3, "--explain")
    assert out.count("ranking: candidates packed into rows after the history\n") == 1
    for place, history in enumerate([(LIKED[1:], DISLIKED), (LIKED[:1], DISLIKED), (LIKED, [])]):
        found = [row["without"][place] for row in rows]
        expected = own_scores([record(*history, row["title"]) for row in rows])
        np.testing.assert_allclose([[each["p_yes"], each["p_no"]] for each in found], expected, rtol=1e-4)
        assert {(each["title"], each["liked"]) for each in found} == {((LIKED + DISLIKED)[place], place < 2)}
    assert max(abs(row["without"][0]["p_yes"] / row["p_yes"] - 1) for row in rows) > 0.01
    line = next(line for line in out.splitlines() if line.startswith(f"without disliked {DISLIKED[0]}"))
    assert line.split()[-3:] == [f"{row['without'][2]['p_yes']:.4f}" for row in rows]

    assert recommend(*HISTORY, "--top", 3, "--explain", "--output", tmp_path / "list.csv")[0] == 0
    table = pd.read_csv(tmp_path / "list.csv")
    assert list(table)[5:] == [f'p_yes without "{title}"' for title in LIKED + DISLIKED]
    assert table.iloc[:, 6].tolist() == pytest.approx([row["without"][1]["p_yes"] for row in rows], abs=1e-12)


def test_without_item_leaves_all_else():
    items = '"A"written by B, C, ', ', "No, "D"" written by E', '"F" written by  G'
    text = f"User Preference: {items[0][:-2]}{items[1]}\nUser Unpreference: {items[2]}\n"
    text += 'Whether the user will like the target book ""H"written by I"?'
    cut = [without_item({"input": text, "output": ""}, place)["input"] for place in range(3)]
    assert cut == [text.replace(item, "") for item in items]


# ------------------------------------------------------------------------------------------------------------- spelling


def test_another_spelling_without_a_terminal(recommend, listed, catalogue, own_scores):
    spelt = "the lighthouse 2102"
    near = 'the nearest: "Lighthouse, The (2102)"; give one of these, or --as_written\n'
    found = recommend("--liked", "Yes", spelt)
    assert found == (2, "", f"error: --liked '{spelt}': not in the catalogue {catalogue}; {near}")
    rows, out = listed("--liked", "Yes", spelt, "--as_written")
    assert out.startswith(f"--liked '{spelt}': not in the catalogue; taken as it is\ncandidates: 10; rated by")
    items = [item for item in ITEMS if item.title != "Yes"]
    assert_scores(rows, items, own_scores([record(["Yes", spelt], [], item) for item in items]))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("typed", "meant", "questions"),
    [("\n", "Harbor", 1), ("x\n-1\n9\n 2 \n", "Harbor (2101)", 4), ("0\n", "The Harbor", 1), ("7", None, 2)],
)
def test_a_question_on_a_terminal(monkeypatch, typed, meant, questions):
    catalogue = Catalogue("items.csv", [Item(title) for title in ("Night", "Harbor", "Harbor (2101)")], [])
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", screen)
    with nullcontext() if meant else pytest.raises(InputError, match="no answer"):
        assert item_meant("--liked", "The Harbor", catalogue, False) == Item(meant)
    assert screen.getvalue().splitlines()[:4] == [
        "--liked 'The Harbor': not in the catalogue. The nearest:",
        '  1  "Harbor"',
        '  2  "Harbor (2101)"',
        "  0  none of them: take the title as it is",
    ]
    assert screen.getvalue().count("which one, 0 to 2? [1] ") == questions


def test_nearest_titles():
    films = "Godfather, The (1972)|Godfather: Part II, The (1974)|2001: A Space Odyssey (1968)|It|Star Wars (1977)"
    titles = [*films.split("|"), "Pity the Fool"]
    catalogue = Catalogue("items.csv", list(map(Item, titles)), [])

    def nearest(text):
        return [titles[place] for place in catalogue.nearest(typed_item(text, "--liked"))]

    assert nearest("The Godfather 1972") == titles[:1]
    assert nearest("godfathr") == titles[:2] == nearest("Godfather")
    assert nearest("2001 space odyssey") == [titles[2]] and nearest("star  WARS") == [titles[4]]
    assert nearest("the Matrix (1999)") == nearest("Zorblax") == nearest("...") == []
    assert nearest("it!") == ["It"]
    remakes = Catalogue("items.csv", [Item(f"Godfather, The ({year})") for year in (1950, 1972, 1999)], [])
    assert remakes.nearest(Item("The Godfather 1972"))[0] == 1 and remakes.nearest(Item("godfather"))[0] == 0


# ---------------------------------------------------------------------------------------------------------------- books


def test_books(recommend, listed, own_scores, tmp_path):
    items = write_catalogue(tmp_path / "books.csv", [[*row, "book"] for row in BOOKS], ["title", "creator", "kind"])
    emma, other, reef, snow = (Item(*row) for row in BOOKS)
    rows, out = listed("--liked", '"Emma" written by Ben Zell', "the reef", items=items)
    records = [record([other, reef], [], item, "book", quoted=True) for item in (emma, snow)]
    assert_scores(rows, [emma, snow], own_scores(records))
    assert [line.split()[:2] for line in out.splitlines() if "creator" in line] == [["rank", "title"]]

    near = 'the nearest: "Emma" written by Ada Norwick; "Emma" written by Ben Zell; give one of these\n'
    found = recommend("--liked", "Emma", items=items)
    assert found == (2, "", f"error: --liked 'Emma': the title of several items {items}; {near}")
    status, out, err = recommend("--liked", '"Emma" written by Ada Norwik', items=items)
    assert status == 2 and 'the nearest: "Emma" written by Ada Norwick; ' in err


def test_parquet_is_read_as_csv_is(tmp_path):
    frame = pd.DataFrame(BOOKS, columns=["title", "creator"])
    frame.assign(item_id=range(4), kind="book").to_parquet(tmp_path / "books.parquet")
    catalogue = read_catalogue(tmp_path / "books.parquet")
    assert catalogue.items == [Item(*row) for row in BOOKS] and catalogue.kinds == ["book"]
    assert catalogue.items == read_catalogue(write_catalogue(tmp_path / "b.csv", BOOKS, ["title", "creator"])).items


# -------------------------------------------------------------------------------------------------------- served models


def test_a_served_model(listed, run_script, merged_folder, client_folder, catalogue, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    flags = [*HISTORY, "--top", 5, "--explain"]
    with serving(like_vllm(AutoModelForCausalLM.from_pretrained(merged_folder).eval())) as server:
        served = ["--base_model", client_folder, "--served", server.url, "--items", catalogue]
        status, _, err = run_script(SCRIPT, *served, *flags, "--output", tmp_path / "served.json")
        assert status == 0, err
        assert sum(len(body["prompt"]) for body in completions(server)) == 8 + 3 * 5
        status, _, err = run_script(SCRIPT, *served, "--liked", "Yes", "--served_name", "x")
        assert status == 2 and err.startswith(f"error: {server.url}: ") and "does not exist" in err
    served, local = json.loads((tmp_path / "served.json").read_text()), listed(*flags)[0]
    assert [row["title"] for row in served] == [row["title"] for row in local]
    for theirs, ours in zip(served, local, strict=True):
        theirs, ours = ([row["p_yes"], *(each["p_yes"] for each in row["without"])] for row in (theirs, ours))
        assert theirs == pytest.approx(ours, rel=1e-4)
    assert server.keys == {"Bearer sk-secret"} and "sk-secret" not in (tmp_path / "served.json").read_text()


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes(tiny_llama, tiny_adapter, catalogue, tmp_path):
    files = {"other.csv": "item_id,name\n1,Harbor\n", "hole.csv": "title,kind\nHarbor,movie\n,movie\n"}
    files |= {"authors.csv": "title,creator\nHarbor,Ada\nNight,\n", "words.csv": "title,kind\nHarbor,board game\n"}
    files |= {"kinds.csv": "title,kind\nHarbor,movie\nNight,book\n", "old.json": "kept"}
    files |= {"free.json": json.dumps([{"instruction": "i", "input": "free text", "output": "o"}])}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    write_records(tmp_path / "rows.json", [record(["Harbor"], [], "Night")])
    (tmp_path / "folder.json").mkdir()
    user, rows = "--liked Harbor ", f"--record {tmp_path}/rows.json "
    everything = ["--liked", *TITLES[:6], "--disliked", *TITLES[6:]]
    cases = [
        ("", "no history: give --liked and --disliked titles, or --record FILE --row N"),
        (user + rows + "--row 1", "--record names history and kind itself"),
        (rows + "--row 1 --kind game", "--record names history and kind itself"),
        (rows, "--record and --row go together"),
        (user + "--row 1", "--record and --row go together"),
        (rows + "--row 2", f"--row 2: {tmp_path}/rows.json has rows 1 to 1"),
        (f"--record {tmp_path}/free.json --row 1", f"{tmp_path}/free.json: row 1: 'input' does not parse"),
        (user + "--top 0", "--top 0: give 1 or more"),
        (user + "--disliked harbor", '"Harbor": given twice as liked or disliked'),
        (["--liked", " "], "--liked ' ': an empty title"),
        (["--liked", "a\udcffb"], "--liked 'a\\\\xffb': a title that is not UTF-8"),
        (everything, f"{catalogue}: the user has rated all 11 items, so none is left to recommend"),
        ([*user.split(), "--kind", "board game"], "--kind: kind 'board game' is not a word"),
        (user + f"--output {tmp_path}/a.txt", f"--output {tmp_path}/a.txt: the name must end in .json or .csv"),
        (user + f"--output {tmp_path}/old.json", f"--output {tmp_path}/old.json: exists; give another --output, or"),
        (user + f"--overwrite --output {tmp_path}/folder.json", f"--output {tmp_path}/folder.json: exists"),
        (user + f"--output {tmp_path}/old.json/a.csv", f"--output {tmp_path}/old.json/a.csv: {tmp_path}/old.json c"),
        (user + "--served_name x", "--served_name needs --served"),
        (user + "--served http://x/v1 --dtype float32", "--dtype is for a model run here, not for --served"),
        (user + "--served http://x/v1", f"--base_model {tiny_llama}: prompt_frame.json or tokenizer is missing there"),
        (user + f"--base_model {tmp_path}/none", f"--base_model {tmp_path}/none: no such folder"),
        (user + f"--lora_weights {tmp_path}", f"--lora_weights {tmp_path}: no adapter_config.json in this folder"),
    ]
    for name, message in {
        "absent.csv": "no such file",
        "other.csv": "line 1: no column 'title'; found 'item_id', 'name'",
        "hole.csv": "line 3: 'title' is missing",
        "authors.csv": "line 3: 'creator' is missing",
        "kinds.csv": "items of several kinds (movie, book); give --kind",
        "words.csv": "kind 'board game' is not a word such as 'movie'",
    }.items():
        cases.append((f"--liked Zorblax --items {tmp_path}/{name}", f"{tmp_path}/{name}: {message}"))
    assert_mistakes(SCRIPT, cases, "--base_model", tiny_llama, "--items", catalogue)
    assert (tmp_path / "old.json").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "rows.json", "folder.json", "items.csv"])
