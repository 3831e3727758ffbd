"""cot_data/preprocess_data.py.

1. A record is an instruction, step 3's prompt without its closing marker, and its answer; it goes through the with-input
   frame. --curriculum adds steps 1 and 2 of the same samples.
2. One file for each data name, and one that joins those that were named; rows by PID; the same bytes each time.
3. No hit, or an answer that breaks the format asked for: dropped, counted and named. Both definitions of a hit are
   counted, either can be chosen, and the filter on form can be left out.
4. Files that the script did not write are kept; its own are renewed.
5. Records beyond the token limit are counted as the tuner would treat them.
"""

import json

import pytest

from tlrec.demo.teacher import MODEL
from tlrec.files import read_json
from tlrec.model.prompts import load_frame


def numbered(liked, candidates):
    """An answer of step 3."""
    return "\n".join(f"{number}. {a} - {b}" for number, (a, b) in enumerate(zip(liked, candidates), start=1))


HISTORY = [f"Old Film {number} ({1950 + number})" for number in range(10)]
CANDIDATES = [f"New Film {number} ({1980 + number})" for number in range(19)]


def sample(pid=1, **changes):
    facts = {
        "PID": pid,
        "Input_1": f"first {pid}\nAnswer:",
        "Input_2": f"first {pid}\nsecond {pid}\nAnswer:",
        "Input_3": f"third {pid}\nAnswer:",
        "Predictions_1": "You like old films.",
        "Predictions_2": "\n".join(f"{number}. {HISTORY[number]}" for number in range(1, 6)),
        "Predictions": numbered(HISTORY, CANDIDATES),
        "GT": CANDIDATES[3],
        "Hit": 1,
        "Hit_substring": 1,
        "Kind": "movie",
        "History": HISTORY,
        "Candidates": CANDIDATES,
        "Models": [MODEL],
    }
    return {**facts, **changes}


def write_samples(root, name, samples):
    path = root / "cot_data" / name / "three_stages.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(samples))


@pytest.fixture
def preprocess(run_script, tmp_path):
    def run(*flags):
        return run_script("cot_data/preprocess_data.py", "--root_path", tmp_path, *flags)

    return run


def output(root, stage="stage123", name="."):
    return json.loads((root / "cot_data" / name / f"{stage}.json").read_text())


def inputs(root, name="."):
    return [record["input"] for record in output(root, name=name)]


def test_records_and_curriculum(preprocess, tmp_path):
    write_samples(tmp_path, "netflix", [sample(7), sample(2), sample(9, Hit=0, Models=["gpt-4-0613"])])
    status, out, _ = preprocess("--curriculum")
    assert status == 0 and "answered by gpt-4-0613, tlrec-offline-teacher" in out
    for record, pid in zip(output(tmp_path), (2, 7), strict=True):
        assert record["instruction"].startswith("Given the candidate movies, the movies that the user knows, the ")
        assert "recommend 10 of the candidates" in record["instruction"] and "{" not in record["instruction"]
        assert record["input"] == f"third {pid}" and record["output"] == sample(pid)["Predictions"]
    assert output(tmp_path, "stage1") == [
        {"instruction": f"first {pid}", "input": f"first {pid}", "output": "You like old films."} for pid in (2, 7)
    ]
    assert [(record["instruction"], record["input"]) for record in output(tmp_path, "stage12")] == [
        (f"second {pid}", f"first {pid}\nsecond {pid}") for pid in (2, 7)
    ]
    run = read_json(tmp_path / "cot_data" / "stage123.run.json")
    results = {"kept": {"netflix": 2}, "dropped": {"netflix": {"no hit": 1}}, "exceeding": {"netflix": {}}}
    assert run["results"] == results and run["script"] == "preprocess_data.py"
    assert run["models"] == [MODEL] and run["data"]["netflix"]["rows"] == 3
    framed = load_frame("alpaca").prompt(output(tmp_path)[0])
    assert "further context" in framed and "### Input:\nthird 2\n" in framed


def test_data_names_and_order(preprocess, tmp_path):
    for number, name in enumerate(["netflix", "amazon-book", "mine"]):
        write_samples(tmp_path, name, [sample(10 * number + 2), sample(10 * number + 1)])
    status, out, _ = preprocess()
    assert status == 0 and "not written; give --data_name amazon-book mine netflix to join these" in out
    assert not (tmp_path / "cot_data" / "stage123.json").exists()  # joined on request only
    assert inputs(tmp_path, "netflix") == ["third 1", "third 2"]
    assert inputs(tmp_path, "mine") == ["third 21", "third 22"]
    preprocess("--data_name", "netflix", "mine")
    assert inputs(tmp_path) == [f"third {pid}" for pid in (1, 2, 21, 22)]
    before = (tmp_path / "cot_data" / "stage123.json").read_bytes()
    preprocess("--data_name", "netflix", "mine")
    assert (tmp_path / "cot_data" / "stage123.json").read_bytes() == before
    assert not (tmp_path / "cot_data" / "stage1.json").exists()


def test_both_definitions_of_a_hit(preprocess, tmp_path):
    rows = [sample(1), sample(2, Hit=0), sample(3, Hit_substring=0), sample(4, Hit=0, Predictions_2="Cannot tell.")]
    write_samples(tmp_path, "netflix", rows)
    for flags, kept in (
        ([], [1, 3]),
        (["--hits", "substring"], [1, 2]),
        (["--hits", "substring", "--any_form"], [1, 2, 4]),
    ):
        status, out, _ = preprocess(*flags)
        assert status == 0 and "hits: 2 parsed, 3 by substring" in out
        assert inputs(tmp_path) == [f"third {pid}" for pid in kept]


BREAKS = [
    ({"Hit": 0}, "no hit"),
    ({"Predictions_2": f"1. {HISTORY[0]}\n2. Other (1990)"}, "step 2 names something that is not in the history"),
    ({"Predictions_2": "\n".join(f"- {film}" for film in HISTORY[:6])}, "step 2 names more than 5"),
    ({"Predictions": numbered(HISTORY, CANDIDATES[:9])}, "step 3 does not recommend as many as asked for"),
    (
        {"Predictions": numbered(HISTORY, [*CANDIDATES[:9], "Another (1990)"])},
        "step 3 recommends something that is not a candidate",
    ),
    ({"Predictions": numbered(HISTORY, [*CANDIDATES[:9], CANDIDATES[3]])}, "step 3 recommends something twice"),
    ({"Predictions": numbered(["Another"] * 10, CANDIDATES)}, "step 3 names something that is not in the history"),
]


def test_broken_formats_are_dropped_and_named(preprocess, tmp_path):
    broken = [sample(pid, **changes) for pid, (changes, _) in enumerate(BREAKS, start=2)]
    few = CANDIDATES[:4]
    whole = [
        sample(96, Predictions="Here you are:\n" + numbered(HISTORY, CANDIDATES).replace(" - ", " → ")),
        sample(97, Candidates=few, Predictions=numbered(HISTORY, few)),
        sample(98, Predictions_2=f"1. **{HISTORY[0]}**"),
    ]
    write_samples(tmp_path, "netflix", [sample(1), *broken, *whole])
    status, out, _ = preprocess()
    assert status == 0 and f"netflix: {len(BREAKS) + 4} samples, kept 4, answered by {MODEL}\n" in out
    assert {line for line in out.splitlines() if "dropped" in line} == {
        f"  dropped 1: {reason}" for _, reason in BREAKS
    }
    assert inputs(tmp_path) == [f"third {pid}" for pid in (1, 96, 97, 98)]


def test_other_files_are_kept_and_own_ones_renewed(preprocess, tmp_path):
    write_samples(tmp_path, "netflix", [sample(1)])
    published = tmp_path / "cot_data" / "stage123.json"
    published.write_text("[]")
    status, _, err = preprocess()
    assert status == 2 and "was not written by this script, or was changed" in err and published.read_text() == "[]"
    assert preprocess("--overwrite")[0] == 0 and len(output(tmp_path)) == 1
    write_samples(tmp_path, "netflix", [sample(1), sample(2)])
    assert preprocess()[0] == 0 and len(output(tmp_path)) == 2
    before = published.read_bytes()
    for content in ("", '{"outputs": []}'):  # the note of the earlier run is damaged
        (tmp_path / "cot_data" / "stage123.run.json").write_text(content)
        status, _, err = preprocess()
        assert status == 2 and len(err.splitlines()) == 1 and published.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no three_stages.json in its folders; bash shell/generate_cot_data.sh makes them"),
        ("{", "three_stages.json: damaged: "),
        ("{}", "expected a JSON array"),
        (json.dumps([sample(1), {"PID": 2}]), "row 2: the key 'Input_1' is missing"),
        (json.dumps([sample(1, Hit=0)]), "no sample is left to learn from"),
        (json.dumps([sample(1, Models=[None])]), "row 1: 'Models.0': should be a valid string"),
    ],
)
def test_mistakes(preprocess, tmp_path, content, told):
    if content is not None:
        write_samples(tmp_path, "netflix", [])
        (tmp_path / "cot_data" / "netflix" / "three_stages.json").write_text(content)
    status, _, err = preprocess()
    assert status == 2 and told in err and len(err.splitlines()) == 1
    assert not (tmp_path / "cot_data" / "stage123.json").exists()


def test_unknown_names_and_models(preprocess, tmp_path):
    write_samples(tmp_path, "netflix", [sample(1)])
    assert "nextflix/three_stages.json: no such file" in preprocess("--data_name", "nextflix")[2]
    assert "a name is given twice" in preprocess("--data_name", "netflix", "netflix")[2]
    assert "no such folder" in preprocess("--base_model", tmp_path / "none" / "llama")[2]


def test_token_limit(preprocess, tmp_path, tiny_llama, pieces):
    write_samples(tmp_path, "netflix", [sample(1), sample(2, Input_3="x" * 3000)])
    assert "token limit: not checked" in preprocess()[1]
    answer = len(pieces.encode(sample(1)["Predictions"]))
    _, out, _ = preprocess("--base_model", tiny_llama, "--cutoff_len", answer + 400)
    assert "netflix, stage123: 1 of 2 exceed" in out and "cuts the prompt of 1 and leaves out 0" in out
    _, out, _ = preprocess("--base_model", tiny_llama, "--cutoff_len", answer - 5)
    assert "stage123: 2 of 2 exceed" in out and "leaves out 2 whose answer alone is too long" in out
