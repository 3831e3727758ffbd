"""evaluate.py --rank: the target of every liked row among the items of a catalogue.

1. Ranks are those of scoring every candidate of a row by itself, with P(Yes).
2. Candidates: the catalogue without what the user has rated before, as far as records tell; later items stay.
3. Sampled candidates and drawn rows follow --rank_seed, and a smaller draw is part of a larger one.
4. ranking.json has the means of ranks.jsonl, floors and intervals; same command, same bytes.
5. A run that was stopped goes on where it was, without scoring a row again; another run's ranks are refused.
6. Baselines rank the very same candidates.
7. What cannot be ranked is counted and said, or one line of error before torch is imported.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.support.mistakes import assert_mistakes
from tests.support.synthetic import preference, write_catalogue
from tlrec.data.catalogue import read_catalogue
from tlrec.data.preferences import Item, build_record, parse_input, read_checked, with_targets
from tlrec.data.records import RecordSet, labels_of, read_records, write_records
from tlrec.errors import InputError
from tlrec.evaluation.candidates import RankingSet
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.hits import NAMES, row_metrics, standing
from tlrec.evaluation.ranks import NOT_NEXT, SAMPLED, Ranks, read_ranking
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame
from tlrec.scoring import loaded
from tlrec.scoring.records import score_records


@pytest.fixture(scope="module")
def movie(tiny_workspace, tmp_path_factory):
    """The movie data of the tiny workspace with the catalogue of its items, and two that nobody has rated."""
    folder = shutil.copytree(tiny_workspace / "rec_data" / "movie", tmp_path_factory.mktemp("data") / "movie")
    files = [read_checked(folder / f"{name}.json")[1] for name in ("train", "valid", "test")]
    titles = dict.fromkeys(item.title for one in sum(files, []) for item in (*one.history, one.target))
    write_catalogue(folder / "item_mapping.csv", [*titles, 'No, "Never" (2100)', "Yes (2101)"])
    return folder


@pytest.fixture(scope="module")
def ranking_of(run_script, tiny_llama, tiny_adapter, movie):
    """ranking_of(folder)(flag, value, ...): evaluate.py with the adapter at `folder`; (status, output, errors)."""

    def make(folder):
        adapter = shutil.copytree(tiny_adapter, folder)
        model = ["--base_model", tiny_llama, "--device", "cpu", "--dtype", "float32", "--lora_weights", adapter]
        return lambda *flags: run_script("evaluate.py", *model, "--test_data_path", movie / "test.json", *flags)

    return make


@pytest.fixture
def evaluate(ranking_of, tmp_path):
    return ranking_of(tmp_path / "adapter")


@pytest.fixture(scope="module")
def ranked(ranking_of, movie, tmp_path_factory):
    """(folder, what was printed) of an adapter that was evaluated with --rank full and train records. Read only."""
    folder = tmp_path_factory.mktemp("ranked") / "adapter"
    status, out, err = ranking_of(folder)("--train_data_path", movie / "train.json", "--rank", "full")
    assert status == 0, err
    return folder, out


@pytest.fixture
def ranking_set(movie):
    """ranking_set(protocol, ...): of the movie data, with train records."""

    def make(*arguments, **options):
        test = EvaluationSet(movie / "test.json", RecordSet(movie / "train.json"))
        return RankingSet(test, None, *arguments, **options)

    return make


def lines_of(folder):
    """Those of rows; the first says what ranks."""
    return [json.loads(line) for line in (folder / "ranks.jsonl").read_text().splitlines()][1:]


# ---------------------------------------------------------------------------------------------------------- the numbers


def test_ranks_are_those_of_single_prompts(ranked, movie, tiny_llama, ranking_set):
    (folder, out), (ranking, lines) = ranked, read_ranking(ranked[0])
    records = read_records(movie / "test.json")
    base = base_models.load_base_model(tiny_llama, torch.device("cpu"), torch.float32)
    model, tokenizer = adapters.attach_adapter(base, folder), base_models.load_tokenizer(tiny_llama)
    liked = [number for number, record in enumerate(records, start=1) if record["output"] == "Yes."]
    assert [line["row"] for line in lines] == liked
    rows = ranking_set("full")
    ranks = []
    for row, line in list(zip(rows.rows, lines, strict=True))[:4]:
        record, items = rows.request(row)
        target = items.index(parse_input(record["input"]).target)
        scores = score_records(model, tokenizer, with_targets(record, items), load_frame("alpaca")).log_p_yes
        near = (np.abs(scores - scores[target]) < 1e-4).sum() - 1
        better = (scores > scores[target]).sum()
        ranks.append(better)
        assert abs(line["better"] - better) <= near and line["candidates"] == len(items)
        assert line["tied"] == 0 and line["rank"] == line["better"] + 1
    assert len(set(ranks)) > 1 and max(ranks) > 10
    expected = row_metrics([line["better"] for line in lines], [line["tied"] for line in lines])
    for name in NAMES:
        assert ranking[name] == pytest.approx(expected[name].mean()), name
    assert (ranking["protocol"], ranking["rows"], ranking["rank_seed"]) == ("full", len(liked), None)
    assert ranking["candidates"] == np.mean([line["candidates"] for line in lines])
    assert ranking["users"] == len({line["user"] for line in lines}) and ranking["notes"] == [NOT_NEXT]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert ranking["run"]["adapter"]["sha256"] == metrics["run"]["adapter"]["sha256"]
    assert set(ranking["run"]["data"]) == {"test", "train", "items"}
    assert f"{ranking['ndcg@10']:.4f}" in out and NOT_NEXT in out and SAMPLED not in out
    assert [line for line in out.splitlines() if "=====" in line] == [f"===== auc: {metrics['auc']} ====="]


def test_floors(ranked, movie, ranking_set):
    ranking, lines = read_ranking(ranked[0])
    assert list(ranking["floors"]) == ["history", "item", "likes"]
    train = read_records(movie / "train.json")
    liked = [parse_input(record["input"]).target for record in train if record["output"] == "Yes."]
    asked = [parse_input(record["input"]).target for record in train]
    rows = ranking_set("full")
    rows = {row.row: rows.request(row)[1] for row in rows.rows}
    for line in lines[:3]:
        items = rows[line["row"]]
        target = list(map(str, items)).index(line["target"])
        assert line["floors"]["history"] == [0, len(items) - 1]  # chance
        assert line["floors"]["likes"] == list(standing([liked.count(item) for item in items], target))
        rates = [(liked.count(item) + 2.5) / (asked.count(item) + 5) for item in items]
        assert line["floors"]["item"] == list(standing(rates, target))
    mean = np.mean([10 / line["candidates"] for line in lines])
    assert ranking["floors"]["history"]["hr@10"] == pytest.approx(mean)
    difference = ranking["floors"]["history"]["difference"]["mrr"]
    assert difference == pytest.approx(ranking["mrr"] - ranking["floors"]["history"]["mrr"])


# ------------------------------------------------------------------------------------------------------- the candidates


def windows(titles, liked="1" * 40, size=3):
    """Records of one user who rates `titles` in this order: `size` of them as history, the next as target."""
    records = []
    for start in range(len(titles) - size):
        rated = list(zip(titles, liked, strict=False))[start : start + size]
        likes, dislikes = ([title for title, like in rated if like == kind] for kind in "10")
        records.append(build_record(preference(likes, dislikes, titles[start + size]), liked[start + size] == "1"))
    return records


def names(count, start=0):
    return [f"Film {number}" for number in range(start, start + count)]


def test_what_a_user_has_rated_before(tmp_path):
    """Films 0 to 25 by one user, of whose rows the first four are train records, 40 to 57 by another, of whose one is."""
    first, second = windows(names(26), "10" * 13, 6), windows(names(18, 40), "110" * 6, 6)
    write_records(tmp_path / "train.json", first[:4] + second[:1])
    test = first[4:] + second[1:]
    catalogue = write_catalogue(tmp_path / "item_mapping.csv", names(60))
    for order in (range(len(test)), np.random.default_rng(0).permutation(len(test))):  # order of rows tells nothing
        write_records(tmp_path / "test.json", [test[number] for number in order])
        for train, unknown in ((None, (4, 1)), (RecordSet(tmp_path / "train.json"), (0, 0))):
            ranking = RankingSet(EvaluationSet(tmp_path / "test.json", train), catalogue)
            assert len(ranking.rows) == sum(record["output"] == "Yes." for record in test)
            for row in ranking.rows:
                target = int(ranking.catalogue.items[row.target].title.split()[1])
                begin = unknown[0] if target < 40 else 40 + unknown[1]
                left = [int(item.title.split()[1]) for item in ranking.request(row)[1]]
                assert left == [film for film in range(60) if not begin <= film < target]


def test_two_ids_with_one_title(tmp_path):
    """Film 3 is rated a second time, under another id: rows behind that are not taken for rows before it."""
    letters = names(26)
    letters[25] = letters[3]
    test = windows(letters, "110" * 8 + "11", 6)
    order = np.random.default_rng(0).permutation(len(test))
    write_records(tmp_path / "test.json", [test[place] for place in order])
    catalogue = write_catalogue(tmp_path / "item_mapping.csv", [*dict.fromkeys(letters), "Other"])
    ranking = RankingSet(EvaluationSet(tmp_path / "test.json"), catalogue)
    place_of = {record["input"]: 6 + k for k, record in enumerate(test)}
    assert len(ranking.rows) == sum(record["output"] == "Yes." for record in test)
    for row in ranking.rows:
        place = place_of[ranking.test.records[row.row - 1]["input"]]
        rated = {ranking.catalogue.items[item].title for item in row.rated}
        assert rated == set(letters[:place]) - {letters[place]}


@pytest.mark.slow
def test_what_movie_users_have_rated_before(shared_data, tmp_path):
    """All 528 liked rows of the published test set against the ids of MovieLens."""
    raw, ratings = shared_data / "raw" / "ml-100k", {}
    titles = dict(line.split("|")[:2] for line in (raw / "u.item").read_text(encoding="latin-1").splitlines())
    for line in (raw / "u.data").read_text().splitlines():
        user, item, _, time = line.split("\t")
        ratings.setdefault(user, []).append((time, titles[item]))
    windows_of, first = [], {}
    for user, rated in ratings.items():
        rated.sort(key=lambda rating: rating[0])
        windows_of += [(user, place) for place in range(10, len(rated))]
    for user, place in windows_of[-1000:]:
        first.setdefault(user, place)
    catalogue = write_catalogue(tmp_path / "item_mapping.csv", dict.fromkeys(titles.values()))
    ranking = RankingSet(EvaluationSet(shared_data / "rec_data/movie/test.json"), catalogue)
    assert len(ranking.rows) == 528
    for row in ranking.rows:
        user, place = windows_of[-1000:][row.row - 1]
        before = {title for _, title in ratings[user][first[user] - 10 : place]}
        assert ranking.catalogue.items[row.target].title == ratings[user][place][1]
        assert {ranking.catalogue.items[item].title for item in row.rated} == before - {ratings[user][place][1]}


def test_sampled_candidates_and_drawn_rows(ranking_set):
    full, sampled, again, other = ranking_set("full"), ranking_set("7"), ranking_set("7"), ranking_set("7", rank_seed=1)
    drawn = [sampled.candidates(row)[0].tolist() for row in sampled.rows]
    for row, places in zip(sampled.rows, drawn, strict=True):
        assert row.target in places and len(set(places)) == len(places) == 8
        assert set(places) <= set(full.candidates(row)[0])
    assert drawn == [again.candidates(row)[0].tolist() for row in again.rows]
    assert drawn != [other.candidates(row)[0].tolist() for row in other.rows]
    assert len(set(sum(drawn, []))) > 40  # of the whole catalogue
    assert sampled.digest == again.digest and len({full.digest, sampled.digest, other.digest}) == 3
    few, more = ({row.row for row in ranking_set("full", max_rank_rows=n).rows} for n in (3, 6))
    assert len(few) == 3 and len(more) == 6 and few < more


# --------------------------------------------------------------------------------------------------- stop, resume, files


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_more_rows_too(evaluate, tmp_path, monkeypatch):
    folder, scored, engine = tmp_path / "adapter", [], loaded.score_candidates

    def counted(model, tokenizer, requests, *rest):
        requests = list(requests)
        scored.append(len(requests))
        return engine(model, tokenizer, requests, *rest)

    monkeypatch.setattr(loaded, "score_candidates", counted)
    evaluate("--rank", "full", "--max_rank_rows", 2)
    two = lines_of(folder)
    evaluate("--rank", "full", "--max_rank_rows", 4)
    four, ranking = lines_of(folder), read_ranking(folder)[0]
    assert scored == [2, 2] and len(four) == 4 and all(line in four for line in two)
    assert [line["row"] for line in four] == sorted(line["row"] for line in four)
    whole = (folder / "ranks.jsonl").read_bytes()
    (folder / "ranks.jsonl").write_bytes(b"\n".join(whole.split(b"\n")[:3])[:-9])  # one row, and a part of another
    (folder / "ranking.json").unlink()
    for _ in range(2):  # the second time nothing is left to score
        status, _, err = evaluate("--rank", "full", "--max_rank_rows", 4)
        assert status == 0, err
        assert scored[2:] == [3] and (folder / "ranks.jsonl").read_bytes() == whole
        assert read_ranking(folder)[0] | {"run": None} == ranking | {"run": None}


def test_it_is_written_row_by_row(ranking_set, tmp_path):
    rows = ranking_set("full")

    def score(asked):
        for number, row in enumerate(asked):
            written = (tmp_path / "ranks.jsonl").read_text().splitlines()
            assert len(written) == 1 + number
            if number == 3:
                raise KeyboardInterrupt
            yield np.arange(len(rows.candidates(row)[0])), 0

    with pytest.raises(KeyboardInterrupt):
        Ranks(tmp_path, rows, {}).complete(score)
    assert [line["row"] for line in lines_of(tmp_path)] == [row.row for row in rows.rows[:3]]
    assert not (tmp_path / "ranking.json").exists()


@pytest.mark.slow
def test_a_sampled_protocol_is_named_and_other_ranks_are_refused(evaluate, tmp_path):
    folder = tmp_path / "adapter"
    flags = ["--rank", 20, "--rank_seed", 3, "--max_rank_rows", 3]
    status, out, err = evaluate(*flags)
    assert status == 0, err
    ranking, _ = read_ranking(folder)
    assert (ranking["protocol"], ranking["rank_seed"], ranking["candidates"]) == ("sampled 20", 3, 21)
    assert ranking["hr@50"] is None and ranking["ndcg@50"] is None and ranking["hr@10"] is not None
    assert ranking["notes"] == [NOT_NEXT, SAMPLED] and "Krichene and Rendle 2020" in out
    assert "ranking, sampled 20 candidates: " in out and list(ranking["floors"]) == ["history"]
    assert "no row has more than 21 candidates: HR and NDCG at 50 would say nothing" in out

    before = (folder / "ranks.jsonl").read_bytes()
    for more, other in (
        (["--max_rank_rows", 2], "more rows"),
        (["--rank", "full"], "--rank sampled 20, not full, --rank_seed 3, not None"),
        (["--cutoff_len", "500"], "--cutoff_len 512, not 500"),
    ):
        status, _, err = evaluate(*flags, *more)
        expected = f"holds ranks of another run: {other}; give --output_dir or --overwrite\n"
        assert (status, err.splitlines(True)[-1]) == (2, f"error: {folder}/ranks.jsonl: {expected}")
        assert (folder / "ranks.jsonl").read_bytes() == before and (folder / "ranking.json").exists()
    status, _, err = evaluate(*flags, "--rank", "8", "--overwrite")
    assert status == 0, err
    assert {line["candidates"] for line in read_ranking(folder)[1]} == {9}


def test_files_that_do_not_belong_together(ranked, tmp_path):
    folder = shutil.copytree(ranked[0], tmp_path / "copy")
    lines = (folder / "ranks.jsonl").read_text().splitlines(True)
    for text, message in (
        ("".join(lines[:-1]), "does not belong to ranking.json"),
        ("".join(lines[1:]), "line 1: the key 'identity' is missing"),
        ("", "is empty; remove it and rank again"),
        ("".join(lines).replace('"better": ', '"better": -'), "line [0-9]+: 'better'"),
        ("{", "line 1: damaged"),
    ):
        (folder / "ranks.jsonl").write_text(text)
        with pytest.raises(InputError, match=message):
            read_ranking(folder)


# -------------------------------------------------------------------------------------------------------- the baselines


@pytest.mark.slow
def test_baselines_rank_the_same_candidates(run_script, ranked, movie, tmp_path):
    ours, our_lines = read_ranking(ranked[0])
    flags = [
        "--seed",
        0,
        "--sample",
        -1,
        "--num_epochs",
        2,
        "--method",
        "popularity",
        "sasrec",
        "--output_dir",
        tmp_path,
    ]
    for flag, name in (("--train", "train"), ("--val", "valid"), ("--test", "test")):
        flags += [f"{flag}_data_path", movie / f"{name}.json"]
    run_script("tlrec/baselines/__main__.py", *flags)  # without ranks
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/metrics.json")}
    run_script("tlrec/baselines/__main__.py", *flags, "--rank", "full")
    assert len(before) == 2 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    for method in ("popularity", "sasrec"):
        ranking, lines = read_ranking(tmp_path / method / "0_-1")
        assert ranking["candidates_sha256"] == ours["candidates_sha256"]
        assert [line["floors"] for line in lines] == [line["floors"] for line in our_lines]
        assert (ranking["run"]["stage"], ranking["run"]["shots"]) == ("baseline", -1)
    out = run_script("tlrec/baselines/__main__.py", *flags, "--rank", "full")[1]
    assert out.count("complete already: ") == 2


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_what_cannot_be_ranked_is_counted(tmp_path):
    records = windows(names(12), "101110111011")
    write_records(tmp_path / "test.json", records)
    test = EvaluationSet(tmp_path / "test.json")
    liked = int(labels_of(records).sum())
    films = [film for film in names(14) if film not in ("Film 0", "Film 6")]
    ranking = RankingSet(test, write_catalogue(tmp_path / "a.csv", films))
    assert (ranking.unknown_targets, len(ranking.rows)) == (1, liked - 1)  # 6 is a target, 0 in histories only
    assert f"1 of {liked} liked rows are left out: their target is not in the catalogue" in ranking.said()
    assert f"2 titles of the histories are not in {tmp_path / 'a.csv'}" in ranking.said()
    ranking = RankingSet(test, write_catalogue(tmp_path / "b.csv", names(4, 8)))
    assert ranking.nothing_left == 1  # before Film 11 the user has rated 8, 9 and 10
    assert f"1 of {liked} liked rows are left out: the user has rated every other item" in ranking.said()
    ranking = RankingSet(test, write_catalogue(tmp_path / "c.csv", [*names(14), "Film 3", "FILM 4"]))
    assert f"{tmp_path / 'c.csv'}: 1 rows repeat an earlier item and are left out" in ranking.said()
    for row in ranking.rows:  # another spelling of what is asked about, or has been rated, is no candidate either
        record, items = ranking.request(row)
        preference, film = parse_input(record["input"]), Item("Film 4")
        if film in (*preference.history, preference.target):
            assert sum(item.title.casefold() == "film 4" for item in items) == (film == preference.target)


def test_mistakes_are_one_line_before_torch_is_imported(tiny_llama, movie, tmp_path):
    write_catalogue(tmp_path / "one.csv", ["A"])
    write_catalogue(tmp_path / "other.csv", "ABC")
    free = [{"instruction": "i", "input": f"in {k}", "output": "Yes." if k else "No."} for k in range(2)]
    write_records(tmp_path / "free.json", free)
    records, items = read_records(movie / "test.json"), f"{movie}/item_mapping.csv"
    write_records(tmp_path / "test.json", records)
    size, liked = len(read_catalogue(items).items), labels_of(records).sum()
    full, free = "--rank full --items ", f"--test_data_path {tmp_path}/free.json "
    no_catalogue = f"{tmp_path}/item_mapping.csv: no catalogue beside {tmp_path}/test.json; give --items FILE"
    nothing = f"no liked row of {movie}/test.json can be ranked: in {liked} the target is not in the catalogue"
    unparsed = f"{tmp_path}/free.json: row 1: 'input' does not parse: "
    cases = [
        ("--rank some", "--rank some: give full, or how many items to sample, 1 or more"),
        (f"--rank {size}", f"--rank {size}: {items} has {size} items; give fewer, or full"),
        (f"--items {items}", "--items needs --rank"),
        ("--rank full --max_rank_rows 0", "--max_rank_rows 0: give 1 or more"),
        ("--rank full --rank_seed -1", "--rank_seed -1: give 0 or more"),
        (f"{full}{tmp_path}/x.csv", f"{tmp_path}/x.csv: no such file"),
        (f"{full}{tmp_path}/one.csv", f"{tmp_path}/one.csv: has only one item, so"),
        (f"{full}{tmp_path}/other.csv", f"{tmp_path}/other.csv: {nothing}"),
        (f"--rank full --test_data_path {tmp_path}/test.json", no_catalogue),
        (f"{free}{full}{items}", unparsed),
        ("--orders 0", "--orders 0: give 1 or more"),
        ("--rank full --orders 2", "--orders 2: give 1 or more, and 1 with --rank"),
        (f"{free}--orders 2", unparsed),
    ]
    assert_mistakes("evaluate.py", cases, "--base_model", tiny_llama, "--test_data_path", movie / "test.json")
