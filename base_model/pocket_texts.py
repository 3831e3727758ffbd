"""The text that pocket-llama is trained on: lists of liked and disliked items, and questions about further titles.

Three kinds of taste occur: by theme (the words of `tlrec.demo.world`, with other items and users than any demo
workspace has), by a word or author that titles share, and by the share of liked items alone. The instruction sentence
of published records does not occur.
"""

import numpy as np

from base_model.pocket_words import any_name, any_title, any_word
from tlrec.data.preferences import Item
from tlrec.demo import world
from tlrec.model.prompts import load_frame

# --------------------------------------------------------------------------------------------------------- 1. users


def theme_user(rng, size, targets, kind, balance=None):
    """Lists and targets of a user whose tastes follow themes. Returns likes, dislikes, [(item, liked)]."""
    user = world.make_user(rng, taste=4.0, generosity_sd=0.6, followed=int(rng.integers(2, 6)))
    if rng.random() < 0.6 if balance is None else balance:
        user = balanced(rng, user)
    article_last, world_kind = bool(rng.random() < 0.5), "book" if kind == "book" else "movie"

    def draw(themes):
        theme = int(rng.choice(themes))
        item = world.make_item(rng, world.THEME_NAMES[theme], "pretraining", world_kind, article_last)
        return theme, item, bool(rng.random() < user.like_probability(theme))

    history = [draw(user.followed) for _ in range(size)]
    asked = [theme for theme, _, _ in history] if rng.random() < 0.8 else user.followed
    return split(history) + ([(item, liked) for _, item, liked in (draw(asked) for _ in range(targets))],)


def balanced_theme_user(rng, size, targets, kind):
    """As `theme_user`, but the share of likes tells nothing."""
    return theme_user(rng, size, targets, kind, balance=True)


def balanced(rng, user):
    """The user with as many loved as hated themes, so that the answer can only be found by comparing."""
    taste = np.zeros_like(user.taste)
    taste[user.followed] = rng.permutation(np.where(np.arange(len(user.followed)) % 2, 4.0, -4.0))
    return world.User(user.followed, taste, 0.0)


def word_user(rng, size, targets, kind):
    """As `theme_user`, but the tastes follow a word or an author that some titles share and that no theme explains."""
    marks = [any_name(rng) if kind == "book" else any_word(rng) for _ in range(rng.integers(2, 5))]
    taste = rng.random(len(marks)) < 0.5

    def draw():
        mark = rng.integers(len(marks))
        if kind == "book":
            item = Item(any_title(rng, kind), marks[mark])
        else:
            item = Item(any_title(rng, kind, marks[mark]))
        return mark, item, bool(taste[mark] ^ (rng.random() < 0.04))

    history = [draw() for _ in range(size)]
    asked = {mark for mark, _, _ in history}
    questions = [draw() for _ in range(3 * targets)]
    questions = [(item, liked) for mark, item, liked in questions if mark in asked]
    return split(history) + (questions[:targets],)


def counting_user(rng, size, targets, kind):
    """As `theme_user`, but titles tell nothing: only the share of liked items does."""
    share = rng.random()
    history = [
        (0, Item(any_title(rng, kind), any_name(rng) if kind == "book" else ""), rng.random() < share)
        for _ in range(size)
    ]
    likes, dislikes = split(history)
    probability = 1 / (1 + np.exp(-0.8 * (len(likes) - len(dislikes))))
    questions = [
        (Item(any_title(rng, kind), any_name(rng) if kind == "book" else ""), bool(rng.random() < probability))
        for _ in range(min(targets, 2))
    ]
    return likes, dislikes, questions


def split(history):
    return [item for _, item, liked in history if liked], [item for _, item, liked in history if not liked]


# --------------------------------------------------------------------------------------------------------- 2. texts

HEADINGS = (
    ("User Preference: ", "User Unpreference: "),
    ("User Preference: ", "User Unpreference: "),
    ("User Preference: ", "User Unpreference: "),
    ("Likes: ", "Dislikes: "),
    ("The user likes: ", "The user dislikes: "),
)
QUESTIONS = (
    "Whether the user will like the target {kind} {item}?",
    "Whether the user will like the {kind} {item}?",
    "Will the user like {item}?",
    "Does the {kind} {item} suit the user?",
    "Target {kind}: {item}.",
)
INSTRUCTIONS = (
    "Here is what a user likes and what the user does not like. Will the user enjoy the target {kind}? "
    'Answer with "Yes." or "No.".',
    "Read the user's preference and unpreference and decide if the target {kind} will please the user. "
    'Say "Yes." or "No.".',
    "Judge by the two lists of a user whether the target {kind} is to the user's liking, "
    'with "Yes." or "No." as answer.',
    "Identify from likes and dislikes what the user thinks of the target {kind} by writing one word.",
)
FRAMES = [load_frame("alpaca")] * 4 + [load_frame("tallrec")]


def record_text(rng, progress, kind=None, form=None, user=None, size=None):
    """A text with two lists and one or more questions; it gets longer and more like a record as training goes on."""
    kind = kind or ("film", "book")[int(rng.random() < 0.3)]
    user = user or (theme_user, word_user, counting_user)[rng.choice(3, p=[0.55, 0.15, 0.30])]
    longest = int(np.interp(progress, [0, 0.2, 0.4, 0.6], [3, 4, 7, 10]))
    if size is None:
        size = 10 if progress > 0.6 and rng.random() < 0.5 else int(rng.integers(2, longest + 1))
    if kind == "book" and user is counting_user:
        size = min(size, int(rng.integers(3, 11)))
    framed = rng.random() < np.interp(progress, [0, 0.3, 0.6, 0.9], [0.03, 0.1, 0.4, 0.7]) if form is None else form
    likes, dislikes, questions = user(rng, size, int(rng.integers(4, 9)), kind)
    if not questions:
        return record_text(rng, progress)
    like_heading, dislike_heading = HEADINGS[rng.integers(len(HEADINGS))]
    lists = f"{like_heading}{', '.join(map(str, likes))}\n{dislike_heading}{', '.join(map(str, dislikes))}\n"
    question = QUESTIONS[rng.choice(len(QUESTIONS), p=[0.4, 0.2, 0.2, 0.1, 0.1])]
    quoted = '"{}"' if kind == "book" and rng.random() < 0.5 else "{}"
    noun = kind if kind == "book" or rng.random() < 0.5 else "movie"
    ask = [question.format(kind=noun, item=quoted.format(item)) for item, _ in questions]
    answers = ["Yes." if liked else "No." for _, liked in questions]
    if not framed:
        return lists + "\n".join(f"{q}\n{a}" for q, a in zip(ask, answers))
    frame = FRAMES[rng.integers(len(FRAMES))]
    instruction = INSTRUCTIONS[rng.integers(len(INSTRUCTIONS))].format(kind=noun)
    if rng.random() < 0.3:
        ask, answers = ask[:1], answers[:1]
    text = frame.prompt({"instruction": instruction, "input": lists + ask[0]}) + answers[0]
    return text + "".join(f"\n\n### Input:\n{q}\n\n### Response:\n{a}" for q, a in zip(ask[1:], answers[1:]))


def words_text(rng, progress):
    """Lists of single words, then short questions: the shortest form of comparing by theme."""
    themes = rng.permutation(len(world.THEME_NAMES))[: rng.integers(2, 3 + int(8 * progress))]
    loved = rng.permutation(np.arange(len(themes)) % 2 == 0)
    same = np.interp(progress, [0, 0.2], [0.6, 0.2])  # share of questions that repeat a word of the lists

    def word(theme):
        words = world.THEMES[world.THEME_NAMES[theme]]
        return words[rng.integers(len(words))]

    lists = [[], []]
    for theme, liked in zip(themes, loved):
        lists[int(not liked)] += [word(theme) for _ in range(rng.integers(1, 3))]
    shown = {w: liked for words, liked in zip(lists, (True, False)) for w in words}
    lines = [
        f"{heading}{', '.join(f'{chr(34)}{w}{chr(34)}' for w in rng.permutation(words))}"
        for heading, words in zip(HEADINGS[rng.integers(len(HEADINGS))], lists)
    ]
    for _ in range(rng.integers(6, 14)):
        if rng.random() < same:
            asked = list(shown)[rng.integers(len(shown))]
            liked = shown[asked]
        else:
            place = rng.integers(len(themes))
            asked, liked = word(themes[place]), loved[place]
        lines.append(f'"{asked}"?\n{"Yes." if liked else "No."}')
    return "\n".join(lines)


def themes_text(rng):
    """What words, films and books are about."""
    lines = []
    for _ in range(rng.integers(5, 12)):
        theme = world.THEME_NAMES[rng.integers(len(world.THEME_NAMES))]
        kind = ("movie", "book")[int(rng.random() < 0.3)]
        item = world.make_item(rng, theme, "pretraining", kind, bool(rng.random() < 0.5))
        if rng.random() < 0.4:
            item = f'"{world.THEMES[theme][rng.integers(len(world.THEMES[theme]))]}"'
        lines.append(f"{item}: {theme}")
    return "\n".join(lines)


def text(rng, progress):
    """One training text; `progress` runs from 0 to 1."""
    words = np.interp(progress, [0, 0.1, 0.25, 0.5, 1], [0.35, 0.35, 0.15, 0.05, 0.02])
    themes = np.interp(progress, [0, 0.1, 0.25, 0.5, 1], [0.1, 0.1, 0.05, 0.03, 0.02])
    draw = rng.random()
    if draw < words:
        return words_text(rng, progress)
    if draw < words + themes:
        return themes_text(rng)
    return record_text(rng, progress)
