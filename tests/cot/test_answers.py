"""What of a reply is its answer, and which candidates does that recommend? (tests/fuzz/test_fuzz_answers.py: any text)

1. Numbers, bullets, bold, quotes, arrows, tables; a missing year or author; letters that a model has mended.
2. Titles count as a whole: `It` is not `It Happened One Night`; another year or author is another item.
3. What is ambiguous, or not among the candidates, is nobody's recommendation.
4. Only the first ten count as a hit.
5. Thoughts, in any markup, are no part of the answer; where they cannot be told from it, there is none.
"""

import pytest

from tlrec.cot.answers import Recommendation, is_hit, parse_list, parse_recommendations
from tlrec.cot.thoughts import answer_in

HISTORY = ["Speed (1994)", "Alien - Resurrection (1997)", 'The "Burbs" (1989)']
CANDIDATES = [
    "It (1990)",
    "It Happened One Night (1934)",
    "Heat (1995)",
    "Amélie (2001)",
    "LÃ©on (1994)",
    "Mission - Impossible (1996)",
    "Ocean's Eleven (2001)",
    "Matrix, The (1999)",
    "8 1/2 (1963)",
    "{braces} {answer_1} (2000)",
    "卧虎藏龙 (2000)",
    '"Crocodile" Dundee (1986)',
    "2001: A Space Odyssey (1968)",
    "Psycho (1960)",
    "Psycho (1998)",
    "No Way Out",
    "Dune written by Frank Herbert",
    "The Dune Companion written by Frank Herbert",
    "Emma written by Jane Austen",
    "Emma written by Alexander McCall Smith",
    "The Great Gatsby written by F. Scott Fitzgerald",
]


@pytest.mark.parametrize(
    ("line", "liked", "candidate"),
    [
        # as asked for, and the titles that a substring would confuse
        ("1. Speed (1994) - It (1990)", "Speed (1994)", "It (1990)"),
        ("2. Speed (1994) - It Happened One Night (1934)", "Speed (1994)", "It Happened One Night (1934)"),
        ("3. Speed (1994) - Heat (1986)", "Speed (1994)", None),
        # numbering
        ("[1] Speed - It", None, "It (1990)"),
        ("No. 1: Speed - It", "Speed (1994)", "It (1990)"),
        ("１．Speed (1994) → 《卧虎藏龙》", "Speed (1994)", "卧虎藏龙 (2000)"),
        ("- Speed - It", "Speed (1994)", "It (1990)"),
        ("| 1 | Speed | It |", "Speed (1994)", "It (1990)"),
        ("**1.** **Speed** - **It**", "Speed (1994)", "It (1990)"),
        # separators and wrapping
        ("1. Speed → Heat", "Speed (1994)", "Heat (1995)"),
        ("1. Speed: Heat", "Speed (1994)", "Heat (1995)"),
        ('1. "Speed (1994)"-"Heat (1995)"', "Speed (1994)", "Heat (1995)"),
        ("1. Speed - “Ocean’s Eleven”", "Speed (1994)", "Ocean's Eleven (2001)"),
        ("1. Speed (1994) - Heat (1995) - because it is fast", "Speed (1994)", "Heat (1995)"),
        # separators and numbers inside titles
        ("1. Alien - Resurrection - Mission - Impossible", HISTORY[1], "Mission - Impossible (1996)"),
        ("1. Speed - 2001: A Space Odyssey", "Speed (1994)", "2001: A Space Odyssey (1968)"),
        ("1. Speed - No Way Out (1987)", "Speed (1994)", "No Way Out"),
        # quotes, braces, articles, accents, broken letters
        ('1. The "Burbs" (1989) - "Crocodile" Dundee (1986)', HISTORY[2], '"Crocodile" Dundee (1986)'),
        ("1. Speed - {braces} {answer_1}", "Speed (1994)", "{braces} {answer_1} (2000)"),
        ("1. Speed - The Matrix (1999)", "Speed (1994)", "Matrix, The (1999)"),
        ("1. Speed - AmÃ©lie (2001)", "Speed (1994)", "Amélie (2001)"),
        # same title, other year or author
        ("1. Speed - Psycho (1998)", "Speed (1994)", "Psycho (1998)"),
        ("1. Speed - Psycho", "Speed (1994)", None),
        ("1. X - Emma by Jane Austen", None, "Emma written by Jane Austen"),
        ("1. X - Dune by Herbert", None, "Dune written by Frank Herbert"),
        ("1. X - Dune by Jane Austen", None, None),
        ('1. X - "Great Gatsby, The" written by Fitzgerald', None, CANDIDATES[-1]),
        # nothing that was asked for
        ("1.", None, None),
    ],
)
def test_one_line(line, liked, candidate):
    assert parse_recommendations(line, HISTORY, CANDIDATES) == [Recommendation(liked, candidate)]


@pytest.mark.parametrize(
    ("answer", "recommended"),
    [
        (  # prose around a list
            "Sure! Since you like Heat (1995):\n\n1. Speed - It\n2. Speed - Psycho (1960)\n\nEnjoy! Heat (1995)",
            ["It (1990)", "Psycho (1960)"],
        ),
        ("Here you are\nSpeed - It\nSpeed - Heat (1995)\nI hope you like them", ["It (1990)", "Heat (1995)"]),
        ("1. Speed - It, 2. Speed - 8 1/2; 3. Speed - Heat", ["It (1990)", "8 1/2 (1963)", "Heat (1995)"]),
    ],
)
def test_lists_in_prose_without_numbers_and_on_one_line(answer, recommended):
    assert [each.candidate for each in parse_recommendations(answer, HISTORY, CANDIDATES)] == recommended


def test_no_recommendations():
    assert parse_recommendations("", HISTORY, CANDIDATES) == []
    assert parse_recommendations("Heat was better than It.", HISTORY, CANDIDATES) == []


def test_only_the_first_ten_count():
    lines = [f"{number}. Speed - Heat (1995)" for number in range(1, 11)] + ["11. Speed - It (1990)"]
    assert not is_hit("\n".join(lines), HISTORY, CANDIDATES, "It (1990)")
    assert is_hit("\n".join(lines[1:]), HISTORY, CANDIDATES, "It (1990)")
    only_longer = "1. Speed - It Happened One Night (1934)\nI left out It (1990)."
    assert "It (1990)" in only_longer and not is_hit(only_longer, HISTORY, CANDIDATES, "It (1990)")


def test_list_of_history_items():
    answer = "1. **Speed**\n2. Alien - Resurrection (1997): dark\n3. Aliens"
    assert parse_list(answer, HISTORY) == ["Speed (1994)", "Alien - Resurrection (1997)", None]


ANSWER = "1. Heat (1995) - Ronin (1998)\n2. It (1990) - Alien (1979)"
HARMONY = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
MARKED = [
    "<think>\n\n</think>\n\n{}",
    "a\nb\n</think>\n{}",  # the template wrote the opening tag
    '<think time="3">a</think>{}',
    "<thought>a <b>x</b></thought>{}",
    "  [THINK]\na\n[/THINK]\n{}",
    "◁think▷a◁/think▷{}",
    "<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>{}",
    "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>\n{}\n<|end_of_solution|>",
    "<｜begin▁of▁thinking｜>a<｜end▁of▁thinking｜>{}",
    "<|channel>thought\na<channel|>{}",
    HARMONY + "commentary<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "analysisWe need a list.assistantfinal{}",
    "<think>use <answer> tags</think>{}",
    '<details type="reasoning" done="true">\n<summary>Thought for 5 s</summary>\n> a\n</details>\n{}',
    "Thinking...\na\n...done thinking.\n\n{}",
    "Here is my thought process: a\nb\nHere is my response:\n{}",
    "```thinking\na\n```\n{}",
]
UNCLEAR = [
    "<think>a {}",
    "a</think>b<think>c</think>{}",
    "<think>a</think>",
    "<tool_call>{}</tool_call>",
    "<answer>1. A</answer><answer>{}</answer>",
    "Thinking...\n{}",
    "analysisWe need a list: {}",
    HARMONY + "analysis<|message|>{}",
]
PLAIN = [
    "1. <i>It</i> -> **Alien**",
    "[REC] (2007)\n2. [Rec]² (2009) - Quarantine [2008]",
    "Reasons: you like war; x < 3 and y > 2, I <3 it",
    "1. A - B [Reason: both are about war]\n2. The Final [Solution] - [Reflections] (1990)",
]


def test_only_the_answer_counts():
    assert [text for text in MARKED if answer_in(text.format(ANSWER)).strip() != ANSWER] == []
    assert [text for text in UNCLEAR if answer_in(text.format(ANSWER))] == []  # cannot be told apart
    assert [text for text in PLAIN if answer_in(text) != text] == []
