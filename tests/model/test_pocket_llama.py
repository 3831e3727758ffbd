"""pocket-llama, its tokenizer, and the text it was trained on.

1. Pretraining text never holds an answer Yes or No, a frame, the wording of records, or an item of a demo; text and weights
   are the committed ones.
2. It is a LLaMA folder of at most 8 MB whose tokenizer is SentencePiece's to the id; bytes carry the rest.
3. It finds the list of a title in wordings it was trained on; of a record it cannot tell whether the answer is Yes or No.
"""

import hashlib
import re
import sys

import numpy as np
import pytest
import sentencepiece
import torch
from sklearn.metrics import roc_auc_score

from tests.conftest import REPOSITORY
from tlrec.data.preferences import Item, Preference, build_record, parse_input
from tlrec.data.records import labels_of, read_records
from tlrec.demo import world
from tlrec.demo.workspace import make_workspace
from tlrec.files import sha256
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.records import score_records

FOLDER = REPOSITORY / "base_model" / "pocket-llama"
sys.path.insert(0, str(FOLDER))  # its scripts are not a package
import pieces  # noqa: E402
import texts  # noqa: E402


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    sizes = {"netflix": {"train": 60}, "amazon-book": {}, "movie": {"train": 60, "test": 200}, "book": {"train": 60}}
    make_workspace(root, 0, sizes)
    return root


@pytest.fixture(scope="module")
def pretraining():
    rng = np.random.default_rng(5)
    return [texts.text(rng, progress) for progress in np.linspace(0, 1, 1500)]


@pytest.fixture(scope="module")
def model():
    return load_base_model(FOLDER, torch.device("cpu"), torch.float32)


# ------------------------------------------------------------------------------------------------- 1. pretraining text


def test_it_never_asks_for_yes_or_no(pretraining):
    assert len({name for text in pretraining for name in text.answers}) > 30
    assert not {"yes", "no"} & {name.casefold() for text in pretraining for name in text.answers}
    for text in pretraining:
        lines = text.words.split("\n")
        if {"yes", "no"} & {line.strip(' ."#:').casefold() for line in lines}:
            # nothing is asked there: all lines come once more, in the same order
            assert "?" not in text.words and not text.list_lines
            half = lines[: len(lines) // 2]
            assert text.words == "\n".join([*half, "", *half])
    assert not any(re.search(r"\b(yes|no)\b", task, re.IGNORECASE) for task in (*texts.TASKS, *texts.QUESTIONS))


def test_it_has_neither_frames_nor_the_wording_of_records(pretraining):
    text = "\n".join(text.words for text in pretraining)
    frame, record = load_frame("alpaca"), build_record(Preference((Item("x"),), (Item("y"),), Item("z"), "movie"), True)
    wording = (frame.with_input, frame.without_input, record["instruction"], record["input"])
    found = re.split(r'{\w+}|\n|: |movie|"\w"|Yes|No', "\n".join(wording))
    found = [piece for piece in (each.strip(' ."#,?') for each in found) if len(piece.split()) > 1]
    assert {"User Preference", "User Unpreference", "Whether the user will like the target"} <= set(found)
    assert [piece for piece in found if piece in text] == []
    assert not re.search(r"^#+ *(Instruction|Input|Response)", text, re.MULTILINE)
    assert not re.search(r"^[^\n\"]*(like|preference)[^\n\"]*: \"", text, re.IGNORECASE | re.MULTILINE)


def test_it_has_no_item_of_a_demo(demo, pretraining):
    text = "\n".join(text.words for text in pretraining)
    themed = [t for t in re.findall(r'"([^"\n]*) \((2[1-9]\d\d)\)"', text) if world.theme_of(t[0])]
    assert len(themed) > 1000 and not [title for title, year in themed if int(year) > 2149]
    for file in ("instruction_data/netflix/train.json", "rec_data/movie/test.json", "rec_data/book/train.json"):
        for preference in (parse_input(row["input"]) for row in read_records(demo / file)):
            for item in (*preference.history, preference.target):
                assert (f"written by {item.creator}" if item.creator else f'"{item.title}"') not in text


def test_text_and_weights_are_the_committed_ones():
    rng = np.random.default_rng(5)
    made = "".join(repr(texts.text(rng, progress)) for progress in np.linspace(0, 1, 100))
    assert hashlib.sha256(made.encode()).hexdigest().startswith("1ca5912de31d0b6d")
    assert sha256(FOLDER / "model.safetensors").startswith("a6e116e2683d1f90")
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 8_000_000


# ------------------------------------------------------------------------------- 2. its tokenizer, and what it can do


def test_tokenizer_is_the_one_of_sentencepiece():
    tokenizer, frame = load_tokenizer(FOLDER), load_frame("tallrec")
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
    for title in ['Amélie, "Le" {fabuleux} (2001)', "千と千尋", "No. 3: Yes\u0092", "  M*A*S*H ", "Æon Flux\t(1995)"]:
        text = frame.prompt(build_record(Preference((Item(title),), (), Item(title), "movie"), True)) + "Yes."
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == oracle.encode(text) and oracle.unk_id() not in ids
        assert tokenizer.decode(ids) == text
    record_tokenizer = RecordTokenizer(tokenizer, frame, 512)
    assert [oracle.id_to_piece(i) for i in record_tokenizer.answer_ids] == ["Yes", "No"]
    assert (record_tokenizer.bos, record_tokenizer.eos) == ([1], [2])


@pytest.mark.slow
def test_it_finds_the_list_of_a_title(model):
    rng, encode, scores, labels = np.random.default_rng(11), pieces.Encoder(FOLDER), [], []
    for text in (texts.lists_text(rng, 1.0, size=10) for _ in range(30)):
        sample = encode(text)
        one, two = (encode.names[name] for name in text.answers)
        with torch.no_grad():
            logits = model(torch.tensor([sample.ids])).logits[0]
        scores += [float(logits[i - 1, one] - logits[i - 1, two]) for i in sample.answers]
        labels += [sample.ids[i] == one for i in sample.answers]
    assert roc_auc_score(labels, scores) > 0.85


def test_it_cannot_tell_yes_from_no(model, demo):
    records = [row for split in ("train", "test") for row in read_records(demo / f"rec_data/movie/{split}.json")]
    scores = score_records(model, load_tokenizer(FOLDER), records, load_frame("alpaca"))
    assert np.mean(scores.p_yes + scores.p_no) > 0.5
    difference = scores.log_p_yes - scores.log_p_no
    assert abs(roc_auc_score(labels_of(records), difference) - 0.5) < 0.08  # twice the standard error
