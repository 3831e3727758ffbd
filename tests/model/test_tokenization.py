"""Token ids asserted one by one.

1. Prompt, answer, BOS and EOS: exact lists, both frames, with good and with empty special tokens in tokenizer files.
2. The answer position: ids of Yes and No behind the frame; titles that hold "No", "No." or "Yes" move nothing.
3. Labels cover prompt and answer, or the answer only.
4. Truncation takes the oldest history, never the answer or the frame's head, and is counted; what is scored is what was
   trained on, also where the two answers differ in length.
5. An error explains when Yes and No do not differ in their first token, or the limit leaves no room.
"""

import pytest

from tests.support.models import write_tokenizer
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.errors import InputError
from tlrec.model.base_models import load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer

BOS, EOS = 1, 2


def record(target="Harbor (2113)", likes=("Night (2101)",), dislikes=("No (2102)",), liked=True):
    return build_record(Preference(tuple(map(Item, likes)), tuple(map(Item, dislikes)), Item(target), "movie"), liked)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


@pytest.mark.parametrize("frame", ["alpaca", "tallrec"])
@pytest.mark.parametrize("special_tokens", ["good", "empty", "absent"])
def test_exact_token_ids(tmp_path, pieces, frame, special_tokens):
    write_tokenizer(tmp_path, special_tokens)
    encoder = RecordTokenizer(load_tokenizer(tmp_path), load_frame(frame), 512)
    liked, disliked = record(liked=True), record(liked=False)
    prompt = pieces.encode(load_frame(frame).prompt(liked))  # by SentencePiece itself
    yes, no, dot = map(pieces.piece_to_id, ("Yes", "No", "."))
    assert [pieces.id_to_piece(i) for i in prompt[-4:]] == ["###", "▁Response", ":", "<0x0A>"]
    assert pieces.id_to_piece(prompt[0]).startswith("▁B")
    assert encoder.answer_ids == (yes, no)
    assert encoder.prompts([liked, disliked]).input_ids == [[BOS, *prompt]] * 2
    likes, dislikes = [BOS, *prompt, yes, dot, EOS], [BOS, *prompt, no, dot, EOS]
    assert encoder.examples([liked, disliked]).rows == [
        {"input_ids": likes, "labels": likes},
        {"input_ids": dislikes, "labels": dislikes},
    ]


def test_a_converted_tokenizer_json_gives_the_same_ids(tmp_path, tokenizer):
    write_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    rows = [record(), record(target="Amélie 電影 \x80 (2101)", liked=False)]
    encoders = [RecordTokenizer(each, load_frame("alpaca"), 512) for each in (tokenizer, load_tokenizer(tmp_path))]
    assert encoders[0].examples(rows) == encoders[1].examples(rows)
    assert encoders[0].prompts(rows) == encoders[1].prompts(rows)


def test_the_frames_differ_by_the_stray_comment_only():
    alpaca, tallrec = load_frame("alpaca").prompt(record()), load_frame("tallrec").prompt(record())
    assert tallrec.replace("  # noqa: E501\n", "\n") == alpaca
    assert tallrec.splitlines()[0].endswith("request.  # noqa: E501")


def test_the_form_without_input():
    frame = load_frame("alpaca")
    prompt = frame.prompt({"instruction": "Say {input}.", "input": "", "output": ""})
    assert prompt.endswith("### Instruction:\nSay {input}.\n\n### Response:\n")
    assert "### Input:" not in prompt


@pytest.mark.parametrize("title", ["No Safe Place", "No.", "Yes", 'Say "Yes." or "No."', "No", "Amélie 電影 \x80"])
def test_titles_with_answers_in_them_move_nothing(tokenizer, pieces, title):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 512)
    row = record(target=title, liked=False)
    (ids,) = encoder.prompts([row]).input_ids
    assert ids == [BOS, *pieces.encode(load_frame("alpaca").prompt(row))]
    no, dot = pieces.piece_to_id("No"), pieces.piece_to_id(".")
    assert encoder.examples([row]).rows[0]["input_ids"] == [*ids, no, dot, EOS]


def test_labels_of_the_answer_alone(tokenizer):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 512)
    (row,) = encoder.examples([record()], train_on_inputs=False).rows
    (prompt,) = encoder.prompts([record()]).input_ids
    assert row["labels"] == [-100] * len(prompt) + row["input_ids"][len(prompt) :]
    assert row["labels"][len(prompt)] == encoder.answer_ids[0]
    assert row["labels"][-1] == EOS


def test_free_text_answers(tokenizer, pieces):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 512)
    cot = {"instruction": "Recommend {ten} items.", "input": "", "output": '1. "Night" - "No {it} was"\n2. Yes'}
    (row,) = encoder.examples([cot], train_on_inputs=False).rows
    prompt = load_frame("alpaca").prompt(cot)
    boundary = 1 + len(pieces.encode(prompt))
    assert row["input_ids"] == [BOS, *pieces.encode(prompt + cot["output"]), EOS]
    assert row["labels"] == [-100] * boundary + row["input_ids"][boundary:]


def test_truncation_takes_the_oldest_history(tokenizer):
    frame = load_frame("alpaca")
    long = record(likes=[f"Night {number} (2101)" for number in range(60)])
    whole = RecordTokenizer(tokenizer, frame, 10_000)
    cut = RecordTokenizer(tokenizer, frame, 300)
    (full,) = whole.examples([long]).rows
    examples = cut.examples([long, record()])
    assert examples.truncated == 1 and examples.dropped == []
    ids = examples.rows[0]["input_ids"]
    head = len(tokenizer(frame.head(long), add_special_tokens=False)["input_ids"])
    assert len(ids) == 300
    assert ids[:head] == full["input_ids"][:head]
    assert ids[head + 1 :] == full["input_ids"][-(300 - head - 1) :]
    # the prompt that is scored is the prompt that was trained on
    prompts = cut.prompts([long, record()])
    assert prompts.truncated == 1
    assert prompts.input_ids[0] == ids[: len(prompts.input_ids[0])]
    assert len(prompts.input_ids[0]) == 300 - 3  # Yes . </s>


@pytest.mark.parametrize("cutoff_len", [300, 512])
def test_answers_of_different_lengths(tmp_path, cutoff_len):
    write_tokenizer(tmp_path, answers=("No",))
    tokenizer = load_tokenizer(tmp_path)
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), cutoff_len)
    assert tokenizer.convert_ids_to_tokens(encoder.answer_ids) == ["<0x59>", "No"]
    rows = [record(likes=[f"Night {n} (2101)" for n in range(40)], liked=liked) for liked in (True, False)]
    prompts, examples = encoder.prompts(rows), encoder.examples(rows)
    assert prompts.truncated == examples.truncated == 2
    for context, row, answer in zip(prompts.input_ids, examples.rows, encoder.answer_ids):
        assert row["input_ids"][: len(context) + 1] == [*context, answer]
        assert len(row["input_ids"]) <= cutoff_len


def test_an_answer_that_cannot_fit_is_left_out_and_counted(tokenizer):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 200)
    long_answer = {**record(), "output": "a harbor at night " * 100}
    examples = encoder.examples([record(), long_answer])
    assert len(examples.rows) == 1 and examples.dropped == [1]


def test_a_long_answer_stays_whole_where_its_prompt_is_cut(tokenizer, pieces):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 250)
    row = {**record(likes=[f"Night {n} (2101)" for n in range(20)]), "output": "a harbor at night " * 10}
    examples = encoder.examples([row])
    prompt = load_frame("alpaca").prompt(row)
    answer = pieces.encode(prompt + row["output"])[len(pieces.encode(prompt)) :]
    assert (len(examples.rows), examples.truncated, examples.dropped) == (1, 1, [])
    assert len(examples.rows[0]["input_ids"]) == 250
    assert examples.rows[0]["input_ids"][-len(answer) - 1 :] == [*answer, EOS]


def test_yes_and_no_must_differ_in_their_first_token(tokenizer, monkeypatch):
    monkeypatch.setattr("tlrec.model.tokenization.ANSWERS", ("Nope.", "Nope!"))
    with pytest.raises(InputError, match="begin with the same token"):
        RecordTokenizer(tokenizer, load_frame("alpaca"), 512)


def test_no_room_for_the_prompt(tokenizer):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 20)
    with pytest.raises(InputError, match="--cutoff_len 20 leaves no room for the prompt; give a larger one"):
        encoder.prompts([record()])
