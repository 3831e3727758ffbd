"""--teacher neighbours: answers from the ratings of other users.

1. On a small set, the answers that loops over sets give, which know nothing of matrices.
2. Neither the row itself nor another window of its user changes anything; a window of another user does.
3. The real script: no key, no connection; the same journal, files and hits; the Netflix figures.
"""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.support.teaching import make_source
from tlrec.cot.answers import is_hit
from tlrec.cot.candidates import nearest_rows, rank_candidates
from tlrec.cot.neighbours import Neighbours, chance
from tlrec.cot.samples import liked_rows, make_samples, read_source
from tlrec.data.preferences import Item, Preference


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(preferences, liked, users, samples) of a small Netflix."""
    path = make_source(tmp_path_factory.mktemp("source"))
    preferences, liked, users = read_source(path)
    rows = liked_rows(preferences, liked, path)
    histories = [history for _, _, history, _ in rows]
    candidates = rank_candidates(histories, *nearest_rows(histories, 12), 19)
    return preferences, liked, users, make_samples(rows, candidates, 10, seed=0)


def by_hand(sample, items, preferences, liked, users):
    """The three answers, from the sets of users who like or dislike each item."""
    likers = {item: set() for item in items}
    haters = {item: set() for item in items}
    for preference, like, user in zip(preferences, liked, users):
        if user == users[sample.pid - 1]:
            continue
        for item in preference.likes:
            likers[item.title].add(user)
        for item in preference.dislikes:
            haters[item.title].add(user)
        (likers if like else haters)[preference.target.title].add(user)

    def similarity(a, b):
        both = len(likers[a] & likers[b]) + len(haters[a] & haters[b])
        sizes = [len(likers[item]) + len(haters[item]) for item in (a, b)]
        return both / math.sqrt(sizes[0] * sizes[1]) if all(sizes) else 0.0

    own = preferences[sample.pid - 1]
    likes = [item for item in sample.history if Item(item) in own.likes]
    hates = [item for item in sample.history if Item(item) in own.dislikes]

    def score(item):
        towards, away = (sum(similarity(other, item) for other in side) for side in (likes, hates))
        return round(towards - away, 9)

    chosen = sorted(sample.candidates, key=lambda item: -score(item))[:10]
    reasons = likes or hates
    featured = sorted(reasons, key=lambda item: -round(sum(round(similarity(item, c), 9) for c in chosen), 9))[:5]
    nearest = [max(reasons, key=lambda item: round(similarity(item, candidate), 9)) for candidate in chosen]
    return likes, hates, score, featured, list(zip(nearest, chosen))


def listed(lines):
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def test_answers_by_hand(source):
    *ratings, samples = source
    neighbours = Neighbours(*ratings)
    for sample in samples:
        likes, hates, score, featured, pairs = by_hand(sample, neighbours.items, *ratings)
        one, two, three = neighbours.texts(sample)
        assert two == listed(featured)
        assert three == listed(f"{near} - {item}" for near, item in pairs)
        scores = {item: score(item) for item in neighbours.items if item not in sample.history + sample.candidates}
        best = sorted((item for item in scores if scores[item] > 0), key=lambda item: -scores[item])[:3]
        worst = sorted((item for item in scores if scores[item] < 0), key=scores.get)[:3]
        like, _, dislike = one.partition(" not like ")
        assert [item for item in scores if item in like] == [item for item in scores if item in best]
        assert [item for item in scores if item in dislike] == [item for item in scores if item in worst]
    hits = [is_hit(neighbours.texts(each)[2], each.history, each.candidates, each.target) for each in samples]
    assert chance(samples) == pytest.approx(np.mean([min(1, 10 / len(each.candidates)) for each in samples]))
    assert np.mean(hits) > chance(samples)


def test_windows_of_the_same_user_change_nothing(source):
    preferences, liked, users, (sample, *_) = source
    row, liked = sample.pid - 1, list(liked)
    own = preferences[row]
    planted = Preference((Item(sample.target), *own.likes), (), own.likes[0], "movie")
    before = Neighbours(preferences, liked, users).texts(sample)
    for number, same in ((users[row], True), (users.max() + 1, False)):
        more = [*preferences, *[planted] * 3], [*liked, 1, 1, 1], np.array([*users, *[number] * 3])
        assert (Neighbours(*more).texts(sample) == before) == same
    without = [place for place in range(len(users)) if users[place] != users[row] or place == row]
    fewer = Neighbours([preferences[p] for p in without], [liked[p] for p in without], users[without])
    assert fewer.texts(replace(sample, pid=without.index(row) + 1)) == before


def test_the_script_needs_no_key_and_says_what_it_is_worth(run_script, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    make_source(tmp_path, rows=300)
    flags = ["--root_path", tmp_path, "--teacher", "neighbours"]
    status, out, err = run_script("cot_data/generate_data.py", *flags)
    assert (status, err) == (0, "")
    rows = json.loads((tmp_path / "cot_data/netflix/three_stages.json").read_text())
    hit, of_chance, leaking = (
        float(re.search(pattern, out)[1])
        for pattern in (r"Hit@10: ([\d.]+)", r"chance: ([\d.]+)", r"hold the target: ([\d.]+)")
    )
    assert hit == pytest.approx(np.mean([row["Hit"] for row in rows]), abs=1e-4) and hit < leaking > of_chance
    assert {model for row in rows for model in row["Models"]} == {"neighbours"}
    journal = tmp_path / "cot_data/netflix/three_stages.jsonl"
    before = journal.read_bytes()
    assert len(before.splitlines()) == 1 + 3 * len(rows)
    assert run_script("cot_data/generate_data.py", *flags)[0] == 0 and journal.read_bytes() == before
    status, out, _ = run_script("cot_data/preprocess_data.py", "--root_path", tmp_path)
    assert status == 0 and f"kept {sum(row['Hit'] for row in rows)}, answered by neighbours" in out  # all in form
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    status, _, err = run_script("cot_data/generate_data.py", "--root_path", tmp_path)
    assert status == 2 and "--teacher neighbours, not chat" in err


@pytest.mark.slow
def test_netflix(run_script, shared_data, tmp_path):
    (tmp_path / "instruction_data").symlink_to(shared_data / "instruction_data")
    status, out, _ = run_script("cot_data/generate_data.py", "--root_path", tmp_path, "--teacher", "neighbours")
    assert status == 0 and "3920 samples complete, 0 unusable, 0 missing" in out
    assert "5164 liked rows of 1554 users (inferred), 8000 rows" in out
    assert "neighbours: 61968, of them 5164 the row itself and 17508 (28.3%) other windows of the same user" in out
    assert "among the candidates: 3920 of 5164 (75.9%), without rows of the same user 1535 (29.7%)" in out
    assert "Hit@10: 0.6411 (target among the recommended candidates)" in out
    assert (
        "of chance: 0.5500; of the same teacher with the ratings of the row's own user, which hold the target: 0.7916"
        in out
    )
