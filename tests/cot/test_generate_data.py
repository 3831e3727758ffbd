"""cot_data/generate_data.py and the launcher, over the real client and the offline teacher.

Samples and prompts
1. Three prompts of one sample, word by word; braces, quotes and slots in titles and answers stay what they are.
2. Only liked rows whose target is among the candidates; history reversed and cut; candidates shuffled by seed and row.
   A larger --max_samples holds the smaller.
Results
3. three_stages.json: the published fields, in the order of the records, running counts, both definitions of a hit.
   Batches give the same at half the price.
4. Nothing is asked twice: not after the end, not after Ctrl-C, SIGTERM, kill -9 or failures; unusable answers train nothing.
Before spending
5. --dry_run needs no key, writes nothing and prints counts, cost, leaks and three prompts.
6. Mistakes: one line, status 2, before anything is asked.
Launcher
7. Both source domains, then one stage123.json; from a foreign folder, a root with a space; tells what is missing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter

import pytest

from tests.conftest import REPOSITORY
from tests.support.teaching import make_source, teaching
from tlrec.cot.samples import fill, read_templates, without_marker
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import write_records
from tlrec.demo.teacher import MODEL
from tlrec.errors import InputError
from tlrec.runs import locked

PUBLISHED_FIELDS = (
    "PID Input_1 Input_2 Input_3 Predictions_1 Predictions_2 Predictions GT Hit Count Current_total Hit@10".split()
)
BATCH = ["--batch", "--poll_seconds", 0.02]


def answers(journal):
    return [entry for entry in journal() if "text" in entry]


# -------------------------------------------------------------------------------------------------- samples, prompts


def awkward_rows(root):
    """Three rows that share their items, so each finds its target in the others' histories."""
    titles = ('It "{kind}" {answer_1} (1990)', "Yes, {} No (1991)", "卧虎藏龙 (2000)", "LÃ©on (1994)")
    a, b, c, d = map(Item, titles)
    write_records(
        root / "instruction_data" / "netflix" / "train.json",
        [
            build_record(Preference((a, b), (c,), d, "movie"), liked=True),
            build_record(Preference((a, d), (), b, "movie"), liked=True),
            build_record(Preference((a, b, d), (), c, "movie"), liked=False),
            build_record(Preference((c, b), (), Item("Nowhere (2001)"), "movie"), liked=True),
        ],
    )


def test_three_prompts_of_a_sample(generate, root, samples):
    awkward_rows(root)
    with teaching() as teacher:
        status, out, _ = generate(teacher.url, "--sequence_length", 2)
    assert status == 0 and "samples: 2, calls: 6" in out
    first, second = samples()
    assert (first["PID"], first["GT"], first["Hit"]) == (1, "LÃ©on (1994)", 1)
    assert (second["PID"], second["GT"]) == (2, "Yes, {} No (1991)")
    assert first["History"] == ["Yes, {} No (1991)", 'It "{kind}" {answer_1} (1990)']  # reversed, the last two kept
    assert first["Candidates"] == ["LÃ©on (1994)"]
    lists = (
        'The candidate movies: "LÃ©on (1994)"\n'
        'The movies I know: "Yes, {} No (1991)", "It "{kind}" {answer_1} (1990)"\n\n'
    )
    one = "Step 1: Which features matter most to me when I choose movies? Describe my preferences in brief.\nAnswer:"
    two = (
        "Step 2: Which of the movies I know show these preferences best? List at most five, the strongest first, one on "
        "each line (no. movie I know).\nAnswer:"
    )
    three = (
        "Step 3: Recommend 1 of the candidate movies that are like those of step 2, one on each line (no. movie I know - "
        "candidate movie).\nAnswer:"
    )
    assert first["Input_1"] == lists + one
    assert first["Input_2"] == f"{lists}{one} {first['Predictions_1']}\n\n{two}"
    assert first["Input_3"] == f"{lists}{one} {first['Predictions_1']}\n\n{two} {first['Predictions_2']}\n\n{three}"


# ----------------------------------------------------------------------------------------------------------- results


@pytest.mark.slow
def test_results_of_liked_rows_whose_target_is_a_candidate(generate, root, samples):
    with teaching() as teacher:
        status, out, _ = generate(teacher.url, "--max_samples", 60)
        folder = root / "cot_data" / "netflix"
        before, asked = {path.name: path.read_bytes() for path in folder.iterdir()}, len(teacher.asked)
        assert "0 calls to go" in generate(teacher.url, "--max_samples", 60)[1] and len(teacher.asked) == asked
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    records = json.loads((root / "instruction_data" / "netflix" / "train.json").read_text())
    rows, hits = samples(), 0
    assert status == 0 and len(rows) == 60 and [row["PID"] for row in rows] == sorted(row["PID"] for row in rows)
    for total, row in enumerate(rows, start=1):
        record = records[row["PID"] - 1]
        assert record["output"] == "Yes." and f'target movie "{row["GT"]}"?' in record["input"]
        assert row["GT"] in row["Candidates"] and len(row["Candidates"]) <= 19
        assert not set(row["History"]) & set(row["Candidates"])
        assert row["History"] == re.findall(r'"([^"]+)"', record["input"])[:-1][::-1]
        hits += row["Hit"]
        assert (row["Count"], row["Current_total"], row["Hit@10"]) == (hits, total, hits / total)
        assert row["Hit_substring"] == int(row["GT"] in row["Predictions"])
        assert row["Models"] == [MODEL] and list(row)[: len(PUBLISHED_FIELDS)] == PUBLISHED_FIELDS
    assert f"Hit@10: {hits / len(rows):.4f} (target among the recommended candidates)" in out
    assert f"{sum(row['Hit_substring'] for row in rows) / len(rows):.4f} (target anywhere in the text)" in out
    assert f"answered by: {MODEL}" in out
    estimated, counted = (
        int(re.search(pattern, out)[1].replace(",", "")) for pattern in (r"prompts ([\d,]+),", r"tokens: ([\d,]+) in")
    )
    assert 0.8 < estimated / counted < 1.6  # the teacher's answers are shorter than a real model's


def test_unusable_answers_are_told_by_kind_paid_for_once_and_train_nothing(
    generate, root, run_script, samples, journal
):
    flaws = {
        "empty": ("", {}, {}),
        "cut off": ("1. I", {"finish_reason": "length"}, {}),
        "refused": ("", {}, {"refusal": "I cannot help with that."}),
        "thoughts without an answer": ("<think>1. I", {}, {}),
        "": ("I would rather talk about the weather.", {}, {}),  # usable, but not in the form that was asked for
    }

    def flaw(body, status, answer):
        number = zlib.crc32(body["messages"][-1]["content"].encode()) % 20
        if number < len(flaws):
            text, of_choice, of_message = list(flaws.values())[number]
            choice = answer["choices"][0]
            choice |= {"message": {**choice["message"], "content": text, **of_message}, **of_choice}
        return status, answer

    with teaching(flaw) as teacher:
        status, out, err = generate(teacher.url, "--max_samples", 40)
        asked = len(teacher.asked)
        assert generate(teacher.url, "--max_samples", 40)[0] == 0 and len(teacher.asked) == asked
    told = {kind: int(count) for count, kind in re.findall(rf"(\d+) ({'|'.join(filter(None, flaws))})", out)}
    assert status == 0 and set(told) == set(filter(None, flaws))  # answered, so nothing is missing
    assert f"{sum(told.values())} unusable (" in out and "0 missing" in out
    assert "thoughts without an answer: give a larger --max_tokens than 512" in err
    assert len(samples()) == 40 - sum(told.values()) and "<think>" not in json.dumps(samples())
    status, out, _ = run_script("cot_data/preprocess_data.py", "--root_path", root)
    assert status == 0
    trained = json.loads((root / "cot_data" / "stage123.json").read_text())
    assert not any("weather" in record["output"] + record["input"].split("Step 2:")[-1] for record in trained)


@pytest.mark.slow
def test_batches_give_the_same_at_half_the_price_and_may_be_mixed_with_calls(generate, root, journal):
    folder, results, costs, kinds = root / "cot_data" / "netflix", set(), {}, {}
    with teaching() as teacher:
        for name, steps in (("live", [[12]]), ("batch", [[12, *BATCH]]), ("mixed", [[5], [12, *BATCH]])):
            for step in steps:
                status, out, _ = generate(teacher.url, "--price_in", 3000, "--price_out", 6000, "--max_samples", *step)
                assert status == 0
            results.add((folder / "three_stages.json").read_bytes())
            costs[name] = float(re.search(r"cost: ([\d.]+) USD", out)[1])
            kinds[name] = Counter(entry["batch"] for entry in answers(journal))
            folder.rename(folder.with_name(name))
        assert [len(lines) for _, lines in teacher.batches.values()] == [12, 12, 12, 7, 7, 7]
    assert len(results) == 1 and costs["batch"] == pytest.approx(costs["live"] / 2, abs=0.01)
    assert kinds == {"live": {False: 36}, "batch": {True: 36}, "mixed": {False: 15, True: 21}}


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_interrupted_run_keeps_what_came_and_goes_on(generate, samples, journal, signals):
    with teaching() as teacher:
        teacher.allow(50)

        def interrupt():
            teacher.wait_for(answers=50, in_flight=8)
            os.kill(os.getpid(), signals[0])
            while "stopping: interrupted" not in sys.stderr.getvalue():  # the next answers come after that
                time.sleep(0.005)
            if len(signals) == 2:
                os.kill(os.getpid(), signals[1])  # once more: those in flight are not waited for
            else:
                teacher.allow(None)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        status, _, err = generate(teacher.url, "--concurrency", 8, "--max_samples", 30)
        interrupter.join()
        assert status == 130 and "Traceback" not in err
        assert "waiting up to 30 s for the calls in flight" in err
        assert "stopped: interrupted; the same command continues" in err
        assert len(answers(journal)) == 50 + (8 if len(signals) == 1 else 0)  # with those in flight
        assert 0 < len(samples()) < 30
        teacher.allow(None)
        assert generate(teacher.url, "--max_samples", 30)[0] == 0
        assert len(samples()) == 30 and max(Counter(teacher.answered).values()) <= len(signals)


@pytest.mark.slow
def test_killed_in_the_midst_of_answers(root, generate, journal):
    flags = ["--root_path", root, "--model", MODEL, "--max_samples", 20, "--concurrency", 4, "--base_url"]
    folder = root / "cot_data" / "netflix"
    with teaching() as teacher:
        for _ in range(4):
            teacher.allow(9)  # 4 may go to calls of the process that was killed before
            command = [sys.executable, REPOSITORY / "cot_data" / "generate_data.py", *flags, teacher.url]
            with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
                teacher.wait_for(answers=len(teacher.answered) + 7)
                process.kill()
            assert 0 < len(journal()) < 60 and not (folder / "three_stages.json").exists()
        teacher.allow(None)
        assert generate(teacher.url, *flags[4:8])[0] == 0
        # Every answer stands in the journal once: none was asked for again after it was written.
        assert Counter((e["pid"], e["stage"]) for e in answers(journal)).most_common(1)[0][1] == 1
        assert len(answers(journal)) == 60
        # What was asked twice was in flight at a kill: at most four calls each time.
        assert sum(count - 1 for count in Counter(teacher.asked).values()) <= 4 * 4
    disturbed = (folder / "three_stages.json").read_bytes()
    folder.rename(root / "cot_data" / "disturbed")
    with teaching() as teacher:
        assert generate(teacher.url, *flags[4:8])[0] == 0
    assert (folder / "three_stages.json").read_bytes() == disturbed


# --------------------------------------------------------------------------------------------------- before spending


def test_dry_run(generate, root, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    status, out, err = generate("", "--dry_run", "--price_in", 30, "--price_out", 60)
    assert status == 0 and err == "" and not (root / "cot_data").exists()

    def told(pattern):
        return [float(number.replace(",", "")) for number in re.search(pattern, out).groups()]

    samples, calls = told(r"samples: (\d+), calls: (\d+)")
    prompts, likely, most = told(r"prompts ([\d,]+), answers ([\d,]+) \(at most ([\d,]+)\)")
    assert calls == 3 * samples and most == calls * 512
    costs = [(prompts * 30 + answers * 60) / 1e6 for answers in (likely, most)]
    assert told(r"estimated: ([\d.]+) USD \(with the longest answers ([\d.]+)\)") == pytest.approx(costs, abs=0.01)
    assert "Answer: <answer 1>" in out and "Answer: <answer 2>" in out and out.count("The candidate movies: ") == 3
    (fewer,) = told(r"without rows of the same user (\d+)")
    assert f"samples: {fewer:.0f}," in generate("", "--dry_run", "--max_samples", 1000, "--exclude_same_user")[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max_samples", -1], "--max_samples -1: give 1 or more"),
        (["--max_cost", 5], "--max_cost needs --price_in and --price_out"),
        (["--price_in", "nan", "--price_out", 1], "--price_in nan: give a number of 0 or more"),
        (["--top_p", 0], "--top_p 0.0: give a number above 0 and at most 1"),
        (["--data_name", "nextflix"], "nextflix/train.json: no such file; instruction_data/README.md tells"),
        ([], "OPENAI_API_KEY is not set"),
    ],
)
def test_mistakes_in_flags(generate, root, monkeypatch, flags, told):
    if not flags:
        monkeypatch.delenv("OPENAI_API_KEY")
    status, out, err = generate("", *flags)
    assert status == 2 and told in err and len(err.splitlines()) == 1 and not (root / "cot_data").exists()


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda rows: [*rows, rows[3] | {"input": "x"}], "row 301: 'input' does not parse: expected 'User Preference"),
        (lambda rows: [row | {"output": "No."} for row in rows], "no row is answered 'Yes.' and has a history"),
        (lambda rows: [row | {"output": "Yes."} for row in rows[:1]], "no target is among its candidates"),
        (lambda rows: [{"instruction": "Count.", "input": "1", "output": "2"}], "give labelled preference records"),
    ],
)
def test_mistakes_in_records(generate, root, broken, told):
    path = root / "instruction_data" / "netflix" / "train.json"
    path.write_text(json.dumps(broken(json.loads(path.read_text()))))
    status, _, err = generate("")
    assert status == 2 and f"{path}: " in err and told in err and len(err.splitlines()) == 1


def test_unknown_model_and_quota(generate, journal):
    with teaching() as teacher:
        status, _, err = generate(teacher.url, "--model", "gpt-4", "--output_path", "/other/")
        assert status == 2 and "404: The model 'gpt-4' does not exist; this is an offline teacher" in err
    for quota, kept, flags in ((20, 20, BATCH), (10, 30, [])):
        with teaching(quota=quota) as teacher:
            status, _, err = generate(teacher.url, *flags)
        assert status == 2 and "error: stopped by the service: 429: You exceeded your current quota" in err
        assert len(answers(journal)) == kept


def test_another_run_is_refused_by_name_and_kept(generate, root):
    with teaching() as teacher:
        generate(teacher.url, "--max_samples", 5)
        before = (root / "cot_data" / "netflix" / "three_stages.jsonl").read_bytes()
        for flags, told in (
            (["--seed", 1], "--seed 0, not 1"),
            (["--temperature", 1, "--user_num", 3], "--user_num 12, not 3; --temperature 0.2, not 1.0"),
            (["--reasoning_model"], "--temperature 0.2, not None; --top_p 1.0, not None"),
        ):
            status, _, err = generate(teacher.url, *flags)
            assert status == 2 and told in err and "or another --output_path" in err
        make_source(root, seed=1)
        status, _, err = generate(teacher.url)
        assert status == 2 and "(data " in err
    assert (root / "cot_data" / "netflix" / "three_stages.jsonl").read_bytes() == before


def test_a_second_process_is_refused_and_a_result_without_its_journal_kept(generate, root):
    folder = root / "cot_data" / "netflix"
    with locked(folder):
        status, _, err = generate("http://127.0.0.1:9")
        assert status == 2 and f"process {os.getpid()} on " in err and "is writing there" in err
    (folder / "three_stages.json").write_text("precious")
    status, _, err = generate("")
    assert status == 2 and "exists without its journal" in err
    assert (folder / "three_stages.json").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------------- launcher


@pytest.mark.slow
def test_launcher_makes_both_domains_and_one_file(tmp_path, root, quick_retries):
    command = ["bash", REPOSITORY / "shell/generate_cot_data.sh", "--model", MODEL, "--max_samples", "12"]

    def launch(url):
        variables = {**os.environ, "ROOT_PATH": str(root), "PYTHON": sys.executable, "OPENAI_BASE_URL": url}
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    done = launch("http://127.0.0.1:9")
    assert done.returncode == 2 and "amazon-book" in done.stderr and "instruction_data/README.md" in done.stderr
    assert not (root / "cot_data").exists()  # before Netflix was paid for
    make_source(root, "amazon-book")
    url_file = tmp_path / "url"
    teacher = [sys.executable, "-m", "tlrec.demo.teacher", "--url_file", url_file]
    with subprocess.Popen(teacher, stdout=subprocess.DEVNULL) as process:  # as the quickstart starts it
        while not url_file.exists() and process.poll() is None:
            time.sleep(0.05)
        done = launch(url_file.read_text())
        process.terminate()
    assert done.returncode == 0, done.stderr
    records = json.loads((root / "cot_data" / "stage123.json").read_text())
    kinds = [re.match(r"The candidate (\w+): ", record["input"])[1] for record in records]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"books", "movies"}  # netflix, then amazon-book
    folders = [root / "cot_data" / name for name in ("netflix", "amazon-book")]
    apart = [json.loads((folder / "stage123.json").read_text()) for folder in folders]
    assert apart[0] + apart[1] == records and all(apart)


def test_slots_may_stand_anywhere_and_unknown_ones_are_refused(tmp_path):
    (tmp_path / "stage1.txt").write_text("{number} of {candidates}? {history}, {kind}")
    (tmp_path / "stage2.txt").write_text("{answer_1} {history}{history}")
    (tmp_path / "stage3.txt").write_text("{answer_2} then {answer_1}")
    one, two, three = read_templates(tmp_path)
    item = '{history} "x"'
    assert fill(one, "movie", ["A"], [item, "B"]) == f'2 of "{item}", "B"? "A", movie'
    assert fill(two, "movie", ["A"], ["B"], ["{answer_1}"]) == '{answer_1} "A""A"'
    assert fill(three, "movie", ["A"], ["B"], ["1", "2"]) == "2 then 1"
    (tmp_path / "stage2.txt").write_text("{answer_2}")
    with pytest.raises(InputError, match=r"stage2.txt: \{answer_2\} is not known here; there are answer_1, candidates"):
        read_templates(tmp_path)


def test_the_closing_marker_of_a_prompt_goes():
    for prompt in (
        "Step 3: Recommend.\nAnswer:",
        "Step 3: Recommend.\n\nYour recommendations:\n",
        "Step 3: Recommend.",
    ):
        assert without_marker(prompt) == "Step 3: Recommend."
