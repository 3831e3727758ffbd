"""What the model is asked: texts with their true continuation, and others to compare it with. Imports no torch."""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tlrec.data.users import infer_users
from tlrec.errors import InputError

YEAR = re.compile(r"(.*\S \()(\d{4})\)", re.DOTALL)  # the last year in parentheses
LEAST = 2  # liked items of a user, so that there are two halves
TRIES = 100  # other users to try, until the second half of one can be compared


@dataclass(frozen=True)
class Question:
    """A text, and what may follow it: the true continuation, the shuffled one, and perhaps others. size: how many
    titles each of them has (histories)."""

    context: str
    completions: tuple[str, ...]
    size: int = 1


@dataclass(frozen=True)
class Questions:
    """rows: list of Question. kind: "year", "author" or "history". left_out: what could not be asked."""

    kind: str
    rows: list
    left_out: int


def title_questions(catalogue, candidates, max_items=None, seed=0):
    """Questions for the release years of a Catalogue or, where it has creators, for its authors.

    candidates: continuations of each question, fewer if the catalogue has fewer: the true one; that of another title,
    as in a shuffled catalogue (each title's own is used once for another); and others, drawn as often as they occur in
    the catalogue. max_items: how many titles are drawn. Raises InputError if there is nothing to ask or to shuffle.
    """
    if any(item.creator for item in catalogue.items):
        kind, asked = "author", [(f'"{item.title}" written by ', item.creator) for item in catalogue.items]
    else:
        found = (YEAR.match(item.title) for item in catalogue.items)
        kind, asked = "year", [(f'"{year[1]}', year[2]) for year in found if year]
    left_out = len(catalogue.items) - len(asked)
    if not asked:
        raise InputError(
            f"{catalogue.path}: no title ends in a year ('Title (1994)'), and no column 'creator' names authors; "
            "nothing to complete"
        )
    rng = np.random.default_rng([seed, 0])
    asked = _draw(rng, asked, max_items)
    answers = [answer for _, answer in asked]
    shuffled = _derangement(rng, answers, f"{catalogue.path}: {len(asked)} titles", kind)
    distinct = sorted(set(answers))
    rows = []
    for (context, answer), other in zip(asked, shuffled, strict=True):
        completions = dict.fromkeys((answer, other))
        if len(distinct) <= candidates:
            completions |= dict.fromkeys(distinct)
        while len(completions) < min(candidates, len(distinct)):
            completions[answers[rng.integers(len(answers))]] = None
        rows.append(Question(context, tuple(completions)))
    return Questions(kind, rows, left_out)


def _draw(rng, values, at_most):
    """At most `at_most` of the values, in their order."""
    if at_most is None or at_most >= len(values):
        return values
    return [values[place] for place in sorted(rng.permutation(len(values))[:at_most])]


def _derangement(rng, values, where, kind):
    """The values in a random order in which no place has the value that it had."""
    value, most = Counter(values).most_common(1)[0]
    if 2 * most > len(values):
        raise InputError(f"{where}, and {most} of them have the {kind} {value}; they cannot be shuffled")
    order = rng.permutation(len(values))
    for place, own in enumerate(values):
        while own == values[order[place]]:  # it has at most half of the places, so there is one to swap with
            other = rng.integers(len(values))
            if own not in (values[other], values[order[other]]):
                order[[place, other]] = order[[other, place]]
    return [values[place] for place in order]


def history_questions(preferences, labels, path, max_users=None, seed=0):
    """Questions for the second half of what users liked, one for each user: their own, and another user's.

    preferences, labels: of labelled records. The row of a user with the most liked items is asked, the first of these.
    A title that both users have rated is in neither half, and both halves are cut to the same number of titles, so that
    swapping the two users gives the same comparison the other way round: how well known a title is cancels out.
    Raises InputError if no two users can be compared.
    """
    users = infer_users(preferences, labels)
    rows, rated = {}, {}
    for user, preference in zip(users.tolist(), preferences, strict=True):
        rated.setdefault(user, set()).update(preference.history, [preference.target])
        if user not in rows or len(preference.likes) > len(rows[user].likes):
            rows[user] = preference
    halves = {
        user: (likes[: (len(likes) + 1) // 2], likes[(len(likes) + 1) // 2 :])
        for user, likes in ((user, row.likes) for user, row in rows.items())
        if len(likes) >= LEAST
    }
    rng = np.random.default_rng([seed, 1])
    questions = []
    for user in _draw(rng, list(halves), max_users):
        first, second = halves[user]
        if pair := _halves_to_compare(rng, user, halves, rated):
            context = f"User Preference: {', '.join(map(str, first))}, "
            questions.append(Question(context, tuple(", ".join(map(str, half)) for half in pair), len(pair[0])))
    asked = min(max_users or len(halves), len(halves))
    if len(questions) < 2:
        raise InputError(
            f"{path}: {len(rows)} users, {len(halves)} of them with two liked items or more, and {len(questions)} "
            "who can be compared with another user; give records of more users"
        )
    return Questions("history", questions, len(rows) - len(halves) + asked - len(questions))


def _halves_to_compare(rng, user, halves, rated):
    """(the user's own second half, another's), of the same size and without what both have rated; None if none of the
    other users that were tried leaves anything."""
    users = list(halves)
    for _ in range(TRIES):
        other = users[rng.integers(len(users))]
        if other == user:
            continue
        own = [item for item in halves[user][1] if item not in rated[other]]
        others = [item for item in halves[other][1] if item not in rated[user]]
        if size := min(len(own), len(others)):
            return own[:size], others[:size]
    return None
