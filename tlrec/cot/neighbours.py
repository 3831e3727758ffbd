"""A teacher without a chat model: the three answers from the source's own ratings, in process and at no cost.

Two items are similar if the same users like both, or dislike both (cosine over users). For each row the ratings of its
own user are left out, those of the row and of every other window, so nothing that is answered comes from the target.
Step 1 names the items that the liked and the disliked ones of the history point to, apart; step 2 the liked items that
the recommendations owe most to; step 3 the candidates that are most similar to the liked minus the disliked ones.
"""

import numpy as np
from scipy.sparse import csr_array

from tlrec.cot.answers import ASKED_FOR, FEATURED
from tlrec.cot.reply import Answer
from tlrec.cot.samples import item_text

NAME = "neighbours"
POINTED_TO = 3  # items that step 1 names for the liked ones, and for the disliked ones
DIGITS = 9  # of a score that count, so that the order of a sum decides nothing


class Neighbours:
    """Similarities of the items that some records hold.

    preferences: n tlrec.data.preferences.Preference; liked: n answers (1 or 0) for their targets; users: n user numbers.
    """

    def __init__(self, preferences, liked, users):
        self._preferences, self._users = preferences, np.asarray(users)
        self.numbers = {}  # text of an item -> its column
        places = ([], [])  # (user, item) of what is liked, and of what is disliked
        for preference, like, user in zip(preferences, liked, users, strict=True):
            rated = (preference.likes, preference.dislikes)
            for side, items in enumerate(rated):
                targets = [preference.target] if bool(like) == (side == 0) else []
                for item in (*items, *targets):
                    places[side].append((user, self.numbers.setdefault(item_text(item), len(self.numbers))))
        self.items = list(self.numbers)
        shape = (int(self._users.max(initial=-1)) + 1, len(self.items))
        self._sides = [_binary(pairs, shape) for pairs in places]
        self._together = sum((side.T @ side for side in self._sides), start=csr_array((shape[1],) * 2, dtype=np.int64))
        self._known_by = sum(side.sum(axis=0) for side in self._sides)

    def similarities(self, items, user=None):
        """Cosine similarity of some items to all, float array (items, all items). user: whose ratings are left out."""
        together, known_by = self._together[items].toarray(), self._known_by.copy()
        for side in self._sides if user is not None else ():
            own = side.indices[side.indptr[user] : side.indptr[user + 1]]
            together[np.ix_(np.isin(items, own), own)] -= 1
            known_by[own] -= 1
        product = np.outer(known_by[items], known_by)
        return np.divide(together, np.sqrt(product), out=np.zeros(product.shape), where=product > 0)

    def rank(self, sample, leave_out=True):
        """(candidates, best first; history items that speak for them; their similarities to all items; the same of
        the items that speak against them). leave_out: the ratings of the row's own user."""
        row = sample.pid - 1
        dislikes = {item_text(item) for item in self._preferences[row].dislikes}
        disliked = np.array([item in dislikes for item in sample.history])
        likes = [item for item in sample.history if item not in dislikes]
        against = [item for item in sample.history if item in dislikes]
        user = self._users[row] if leave_out else None
        similar = self.similarities([self.numbers[item] for item in sample.history], user)
        towards, away = similar[~disliked], similar[disliked]
        columns = [self.numbers[item] for item in sample.candidates]
        scores = np.round(towards[:, columns].sum(axis=0) - away[:, columns].sum(axis=0), DIGITS)
        order = np.argsort(-scores, kind="stable")
        return [sample.candidates[place] for place in order], likes, towards, against, away

    def answers(self, sample):
        """The answers of the three stages, as the journal keeps them."""
        free = {"finish_reason": "stop", "refusal": None, "prompt_tokens": 0, "completion_tokens": 0}
        return [
            Answer(pid=sample.pid, stage=stage, text=text, model=NAME, request_id=None, batch=False, **free)
            for stage, text in enumerate(self.texts(sample), start=1)
        ]

    def texts(self, sample):
        """The texts of the three stages."""
        ranked, likes, towards, against, away = self.rank(sample)
        chosen = ranked[:ASKED_FOR]
        columns = [self.numbers[item] for item in chosen]
        reasons, similar = (likes, towards) if likes else (against, away)
        similar = np.round(similar[:, columns], DIGITS)
        featured = np.argsort(-np.round(similar.sum(axis=1), DIGITS), kind="stable")[:FEATURED]
        nearest = [reasons[place] for place in similar.argmax(axis=0)]
        return [
            self._describe(sample, towards, away),
            "\n".join(f"{number}. {reasons[place]}" for number, place in enumerate(featured, start=1)),
            "\n".join(
                f"{number}. {near} - {item}" for number, (near, item) in enumerate(zip(nearest, chosen), start=1)
            ),
        ]

    def _describe(self, sample, towards, away):
        """Step 1: the items that the liked, and the disliked ones point to, but for those that the prompt shows."""
        shown = [self.numbers[item] for item in (*sample.history, *sample.candidates)]
        sides = []
        for side in (towards.sum(axis=0) - away.sum(axis=0), away.sum(axis=0) - towards.sum(axis=0)):
            side = np.round(side, DIGITS)
            side[shown] = 0
            above = np.flatnonzero(side > 0)
            best = above[np.argsort(-side[above], kind="stable")[:POINTED_TO]]
            sides.append(_listed([self.items[place] for place in best]))
        like, dislike = sides
        said = [f"you like {sample.kind}s close to {like}"] if like else []
        said += [f"you do not like {sample.kind}s close to {dislike}"] if dislike else []
        text = ", and ".join(said) or f"your taste in {sample.kind}s is your own"
        return f"{text[0].upper()}{text[1:]}."


def chance(samples):
    """The share of hits of whoever draws the recommendations from the candidates."""
    return sum(min(ASKED_FOR, len(sample.candidates)) / len(sample.candidates) for sample in samples) / len(samples)


def _binary(places, shape):
    """A 0/1 matrix of these (row, column) places, which may be repeated."""
    rows, columns = np.array(sorted(set(places)), dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape=shape)


def _listed(items):
    """ "A, B and C" """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
