"""The text that pocket-llama is trained on: titles sorted into two lists, and in which list further titles belong.

Three rules of sorting occur: by theme (the words of `tlrec.demo.world`, with other items than any demo workspace has), by
a word or author that titles share, and by the lengths of the lists alone. What a question asks for is the name of a list
or its place. No text has users, likes or dislikes, a question answered Yes or No, a prompt frame, or the wording of records.
"""

from dataclasses import dataclass

import numpy as np
from words import NAMES, PLAIN_WORDS, any_name, any_sentence, any_title, any_word

from tlrec.data.preferences import Item
from tlrec.demo import world

# ---------------------------------------------------- 1. sorted titles: (why, item, whether it belongs in the first list)


def by_theme(rng, size, asked, kind):
    """Titles sorted by theme, with exceptions: those of the lists, and those that are asked for."""
    user = world.make_user(rng, taste=4.0, generosity_sd=0.6, followed=int(rng.integers(2, 6)))
    if rng.random() < 0.6:  # as many themes for either list, so that the answer can only be found by comparing
        taste = np.zeros_like(user.taste)
        taste[user.followed] = rng.permutation(np.where(np.arange(len(user.followed)) % 2, 4.0, -4.0))
        user = world.User(user.followed, taste, 0.0)
    article_last, world_kind = bool(rng.random() < 0.5), "book" if kind == "book" else "movie"

    def draw(themes):
        theme = int(rng.choice(themes))
        item = world.make_item(rng, world.THEME_NAMES[theme], "pretraining", world_kind, article_last, sequels=0.2)
        return theme, item, bool(rng.random() < user.like_probability(theme))

    sorted_items = [draw(user.followed) for _ in range(size)]
    themes = [theme for theme, _, _ in sorted_items] if rng.random() < 0.8 else user.followed
    return sorted_items, [draw(themes) for _ in range(asked)]


def by_word(rng, size, asked, kind):
    """As `by_theme`, but sorted by a word or an author that some titles share and that no theme explains."""
    marks = [any_name(rng) if kind == "book" else any_word(rng) for _ in range(rng.integers(2, 5))]
    first = rng.random(len(marks)) < 0.5

    def draw():
        mark = rng.integers(len(marks))
        item = Item(any_title(rng, kind), marks[mark]) if kind == "book" else Item(any_title(rng, kind, marks[mark]))
        return mark, item, bool(first[mark] ^ (rng.random() < 0.04))

    sorted_items = [draw() for _ in range(size)]
    known = {mark for mark, _, _ in sorted_items}
    questions = [draw() for _ in range(3 * asked)]
    return sorted_items, [question for question in questions if question[0] in known][:asked]


def by_length(rng, size, asked, kind):
    """As `by_theme`, but titles tell nothing: the longer list gets more of the further titles."""

    def draw(probability):
        item = Item(any_title(rng, kind), any_name(rng) if kind == "book" else "")
        return None, item, bool(rng.random() < probability)

    share = rng.random()
    sorted_items = [draw(share) for _ in range(size)]
    longer_by = 2 * sum(first for _, _, first in sorted_items) - size
    probability = 1 / (1 + np.exp(-0.8 * longer_by))
    return sorted_items, [draw(probability) for _ in range(min(asked, 2))]


# --------------------------------------------------------------------------------------------------------- 2. texts


@dataclass
class Text:
    """A text with the numbers of the lines that are answers, and those of the two lists; `answers` are the two names."""

    words: str
    answer_lines: tuple = ()
    list_lines: tuple = ()
    answers: tuple = ()


PLACES = (("A", "B"), ("First", "Second"), ("Upper", "Lower"), ("One", "Two"), ("Front", "Back"))
QUESTIONS = (
    "Where does the {kind} {item} belong, {one} or {two}?",
    "Which list is for the {kind} {item}, {one} or {two}?",
    "{one} or {two}: {item}?",
    "What is the place of {item}?",
    "In which of the two lists does {item} belong?",
    "Next {kind}: {item}.",
    "{item}?",
)
TASKS = (
    "Titles are sorted into two lists. Find the list of each further {kind}, {one} or {two}.",
    "Here are two lists. Which of them is right for the next {kind}? Write {one} or {two}.",
    'Sort the {kind} into one of the two lists and name it: "{one}" or "{two}".',
    "Compare the {kind} with both lists, {one} and {two}, and name the one with titles like it.",
)
HELD_BACK = """
instruction instructions input response user users like liked likes unliked dislike dislikes preference preferences
unpreference yes no one two first
""".split()
HEADING_WORDS = tuple(word.capitalize() for word in PLAIN_WORDS if word not in HELD_BACK)


def list_names(rng, varied):
    """(headings of the two lists, the two answers). `varied`: the share of texts with other names than List A and B."""
    if rng.random() >= varied:
        return ("List A: ", "List B: "), PLACES[0]
    if rng.random() < 0.25:
        names = tuple(str(name) for name in rng.choice(NAMES, 2, replace=False))
        form = ("{}: ", "{} list: ", "{} shelf: ")[rng.integers(3)]
        return tuple(form.format(name) for name in names), names
    words = [str(word) for word in rng.choice(HEADING_WORDS, 4, replace=False)]
    headings = (
        (words[0], words[1]),
        (f"{words[0]} {words[1]}", f"{words[0]} {words[2]}"),
        (f"{words[0]} {words[1]}", f"{words[2]} {words[3]}"),
        (f"The {words[0]} {words[1].lower()}", f"The {words[2]} {words[3].lower()}"),
    )[rng.integers(4)]
    return tuple(f"{heading}: " for heading in headings), PLACES[rng.integers(len(PLACES))]


def mark_of_a_part(rng):
    """The line before a part of a text, such as "## Place:"."""
    word = HEADING_WORDS[rng.integers(len(HEADING_WORDS))]
    return "#" * int(rng.integers(1, 5)) + f" {word}:" if rng.random() < 0.6 else f"{word}:"


def opening(rng, kind, answers, varied):
    """The lines before the lists: nothing, some sentences, or a task."""
    lines = []
    if rng.random() < 0.6 * varied:
        lines += [" ".join(any_sentence(rng) for _ in range(rng.integers(1, 4))), ""]
    if rng.random() < 0.6:
        mark = [mark_of_a_part(rng)] if rng.random() < 0.6 * varied else []
        one, two = answers
        task = TASKS[rng.integers(len(TASKS))].format(kind=kind, one=one, two=two)
        if rng.random() < 0.5 * varied:
            task += " " + any_sentence(rng)
        lines += [*mark, task] + ([""] if mark else [])
    if rng.random() < 0.4 * varied:
        lines += [mark_of_a_part(rng)]
    return lines


def closing(rng, varied):
    """The lines between a question and its answer, the same ones for all questions of a text."""
    if rng.random() < 1 - 0.7 * varied:
        return []
    return ([""] if rng.random() < 0.7 else []) + [mark_of_a_part(rng)]


def lists_text(rng, progress, size=None):
    """Two lists and one or more questions; the text gets longer, and its wording more varied, as training goes on."""
    kind = ("film", "book")[int(rng.random() < 0.3)]
    sorting = (by_theme, by_word, by_length)[rng.choice(3, p=[0.6, 0.15, 0.25])]
    longest = int(np.interp(progress, [0, 0.2, 0.4, 0.6], [3, 4, 7, 10]))
    if size is None:
        size = 10 if progress > 0.5 and rng.random() < 0.5 else int(rng.integers(2, longest + 1))
    varied = float(np.interp(progress, [0.15, 0.4], [0, 0.95]))
    sorted_items, questions = sorting(rng, size, int(rng.integers(4, 9)), kind)
    if not questions:
        return lists_text(rng, progress)
    headings, answers = list_names(rng, varied)
    noun = kind if kind == "book" or rng.random() < 0.5 else "movie"
    lines = opening(rng, noun, answers, varied)
    list_lines = (len(lines), len(lines) + 1)
    for heading, is_first in zip(headings, (True, False)):
        lines.append(heading + ", ".join(str(item) for _, item, first in sorted_items if first == is_first))
    # Only the first question of a text needs to name the answers; texts whose task names them may go without.
    form = QUESTIONS[rng.integers(len(QUESTIONS))]
    quoted = '"{}"' if kind == "book" and rng.random() < 0.5 else "{}"
    between, answer_lines = closing(rng, varied), []
    for _, item, is_first in questions[:1] if rng.random() < 0.15 * varied else questions:
        ask = form.format(kind=noun, item=quoted.format(item), one=answers[0], two=answers[1])
        lines += [ask, *between, answers[not is_first] + "."]
        answer_lines.append(len(lines) - 1)
        if between:
            lines.append("")
    return Text("\n".join(lines), tuple(answer_lines), list_lines, answers)


def words_text(rng, progress):
    """Lists of single words, then short questions: the shortest form of comparing by theme."""
    themes = rng.permutation(len(world.THEME_NAMES))[: rng.integers(2, 3 + int(8 * progress))]
    in_first = rng.permutation(np.arange(len(themes)) % 2 == 0)
    same = np.interp(progress, [0, 0.2], [0.6, 0.2])  # share of questions that repeat a word of the lists

    def word(theme):
        words = world.THEMES[world.THEME_NAMES[theme]]
        return words[rng.integers(len(words))]

    lists = [[], []]
    for theme, first in zip(themes, in_first):
        lists[not first] += [word(theme) for _ in range(rng.integers(1, 3))]
    shown = {w: first for words, first in zip(lists, (True, False)) for w in words}
    headings, answers = list_names(rng, float(np.interp(progress, [0.15, 0.4], [0, 0.95])))
    lines = [
        f"{heading}{', '.join(f'{chr(34)}{w}{chr(34)}' for w in rng.permutation(words))}"
        for heading, words in zip(headings, lists)
    ]
    answer_lines = []
    for _ in range(rng.integers(6, 14)):
        if rng.random() < same:
            asked = list(shown)[rng.integers(len(shown))]
            first = shown[asked]
        else:
            place = rng.integers(len(themes))
            asked, first = word(themes[place]), in_first[place]
        answer_lines.append(len(lines) + 1)
        lines += [f'"{asked}"?', answers[not first] + "."]
    return Text("\n".join(lines), tuple(answer_lines), (0, 1), answers)


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
    return Text("\n".join(lines))


WORDS_TO_REPEAT = (*sum(PLACES, ()), *NAMES, *"Yes No Well Now So Then Still Look Here There Say Tell".split())


def repeated_text(rng):
    """Words in an arbitrary order, one on each line, and the same once more. Yes and No are often among them."""
    words = [str(word) for word in rng.choice(WORDS_TO_REPEAT, rng.integers(2, 7), replace=False)]
    words += [word for word in ("Yes", "No") if word not in words and rng.random() < 0.5]
    lines = [f"{word}." for word in rng.permutation(words)]
    mark = mark_of_a_part(rng)
    number = len(lines)
    return Text("\n".join([mark, *lines, "", mark, *lines]), tuple(range(number + 3, 2 * number + 3)))


def text(rng, progress):
    """One training text; `progress` runs from 0 to 1."""
    words = np.interp(progress, [0, 0.1, 0.25, 0.5, 1], [0.35, 0.35, 0.15, 0.05, 0.02])
    themes = np.interp(progress, [0, 0.1, 0.25, 0.5, 1], [0.1, 0.1, 0.05, 0.03, 0.02])
    draw = rng.random()
    if draw < words:
        return words_text(rng, progress)
    if draw < words + themes:
        return themes_text(rng)
    if draw > 0.9:
        return repeated_text(rng)
    return lists_text(rng, progress)
