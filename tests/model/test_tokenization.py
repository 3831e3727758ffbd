"""Token ids asserted one by one.

1. Prompt, answer, BOS and EOS: exact lists, both frames, with good and with empty special tokens in tokenizer files.
2. The answer position: ids of Yes and No behind the frame; titles that hold "No", "No." or "Yes" move nothing.
3. Truncation takes the oldest history, never the answer or the frame's head, and is counted; what is scored is what was
   trained on, also where the two answers differ in length.
4. An error explains when Yes and No do not differ in their first token, or the limit leaves no room.
5. One encode gives a row of Yes or No the ids and the boundary that two give, with every kind of tokenizer; what it
   cannot tell takes two. The settings that a tokenizer was left with change nothing.
"""

from os.path import commonprefix

import pytest
import transformers
from tokenizers import Tokenizer, decoders
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import UnigramTrainer
from transformers import PreTrainedTokenizerFast

from tests.conftest import REPOSITORY
from tests.support.models import FAMILIES, NO, YES, corpus, merging, write_tokenizer
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import read_records
from tlrec.errors import InputError
from tlrec.model.base_models import load_tokenizer
from tlrec.model.prompts import ANSWERS, Frame, load_frame
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
    facts = {"answer_start": 1 + len(prompt), "length": len(prompt) + 4, "cut": False}
    assert encoder.examples([liked, disliked]).rows == [
        {"input_ids": [BOS, *prompt, answer, dot, EOS], **facts} for answer in (yes, no)
    ]


def test_a_converted_tokenizer_json_gives_the_same_ids(tmp_path, tokenizer):
    write_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    rows = [record(), record(target="Amélie 電影 \x80 (2101)", liked=False)]
    encoders = [RecordTokenizer(each, load_frame("alpaca"), 512) for each in (tokenizer, load_tokenizer(tmp_path))]
    assert encoders[0].examples(rows) == encoders[1].examples(rows)
    assert encoders[0].prompts(rows) == encoders[1].prompts(rows)


def test_the_frames_differ_by_the_stray_comment_only_and_have_a_form_without_input():
    alpaca, tallrec = load_frame("alpaca").prompt(record()), load_frame("tallrec").prompt(record())
    assert tallrec.replace("  # noqa: E501\n", "\n") == alpaca
    assert tallrec.splitlines()[0].endswith("request.  # noqa: E501")
    prompt = load_frame("alpaca").prompt({"instruction": "Say {input}.", "input": "", "output": ""})
    assert prompt.endswith("### Instruction:\nSay {input}.\n\n### Response:\n") and "### Input:" not in prompt


@pytest.mark.parametrize("title", ["No Safe Place", "No.", "Yes", 'Say "Yes." or "No."', "No", "Amélie 電影 \x80"])
def test_titles_with_answers_in_them_move_nothing(tokenizer, pieces, title):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 512)
    row = record(target=title, liked=False)
    (ids,) = encoder.prompts([row]).input_ids
    assert ids == [BOS, *pieces.encode(load_frame("alpaca").prompt(row))]
    no, dot = pieces.piece_to_id("No"), pieces.piece_to_id(".")
    assert encoder.examples([row]).rows[0]["input_ids"] == [*ids, no, dot, EOS]


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


def test_a_long_answer_stays_whole_or_its_record_is_left_out_and_counted(tokenizer, pieces):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 250)
    row = {**record(likes=[f"Night {n} (2101)" for n in range(20)]), "output": "a harbor at night " * 10}
    examples = encoder.examples([row, {**record(), "output": "a harbor at night " * 100}])
    prompt = load_frame("alpaca").prompt(row)
    answer = pieces.encode(prompt + row["output"])[len(pieces.encode(prompt)) :]
    assert (len(examples.rows), examples.truncated, examples.dropped) == (1, 1, [1])
    assert len(examples.rows[0]["input_ids"]) == 250
    assert examples.rows[0]["input_ids"][-len(answer) - 1 :] == [*answer, EOS]


def test_no_room_for_the_prompt(tokenizer):
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 20)
    with pytest.raises(InputError, match="--cutoff_len 20 leaves no room for the prompt; give a larger one"):
        encoder.prompts([record()])


# -------------------------------------------------------------------------------------------- 5. one encode or two


def unigram():
    """A SentencePiece model of the other kind, which chooses the most probable pieces of the whole text."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = Metaspace(), decoders.Metaspace()
    trainer = UnigramTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator([line + "\n" for line in corpus()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<unk>")


TOKENIZERS = {name: family[2:] for name, family in FAMILIES.items()}
TOKENIZERS |= {"in Python": (transformers.ByT5Tokenizer, None), "unigram": (unigram, None)}
TOKENIZERS["merging"] = (lambda: merging(*YES, *NO, ": Ċ"), None)


@pytest.fixture(params=TOKENIZERS)
def kind(request, tmp_path):
    make, template = TOKENIZERS[request.param]
    if request.param in ("llama", "mistral"):  # a bare tokenizer.model
        write_tokenizer(tmp_path, "absent")
    tokenizer = make() or load_tokenizer(tmp_path)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def encoded(monkeypatch):
    """The texts that have been tokenised."""
    texts = []

    def encode(encoder, batch, original=RecordTokenizer._encode):
        texts.extend(batch)
        return original(encoder, batch)

    monkeypatch.setattr(RecordTokenizer, "_encode", encode)
    return texts


def by_two_encodes(encoder, record):
    """(ids of prompt and answer, how many are the prompt's), by the tokenizer's own call."""
    prompt = encoder.frame.prompt(record)
    texts = [prompt, prompt + record["output"]]
    alone, whole = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return whole, len(commonprefix([alone, whole]))


def check_rows(encoder, records):
    for row, record in zip(encoder.examples(records).rows, records, strict=True):
        ids, boundary = by_two_encodes(encoder, record)
        assert row["input_ids"] == encoder.bos + ids + encoder.eos
        assert row["answer_start"] == len(encoder.bos) + boundary


TITLES = ["Harbor (2113)", "No Safe Place", 'Say "Yes."', "Amélie 電影 \x80", "</s> <|im_end|>", "Night:\n", " "]
OF_ALL_KINDS = [record(target=title, liked=liked) for title in TITLES for liked in (True, False)]
OF_ALL_KINDS += [{"instruction": "Yes or No?", "input": "", "output": answer} for answer in ANSWERS]
FREE = [{**record(), "output": output} for output in ("1. Night\n2. Yes", "Yes", "Yes. ", "\nYes.", "")]


@pytest.mark.parametrize("chat", [True, False])
def test_one_encode_gives_what_two_give(kind, encoded, chat):
    frame = "chat" if chat and kind.chat_template else "alpaca"
    encoder = RecordTokenizer(kind, load_frame(frame, kind), 100_000)
    encoded.clear()
    check_rows(encoder, OF_ALL_KINDS + FREE)
    texts = [encoder.frame.prompt(row) + row["output"] for row in OF_ALL_KINDS + FREE]
    assert encoded == texts + [encoder.frame.prompt(row) for row in FREE]


def test_cut_rows_are_those_of_two_encodes(kind, encoded):
    long = [record(likes=[f"Night {n} (2101)" for n in range(20, 20 + more)], liked=more % 2) for more in range(40)]
    encoder = RecordTokenizer(kind, load_frame("alpaca"), 250)
    one = encoder.examples(OF_ALL_KINDS + FREE + long)
    encoder._endings = {}  # so that every row takes two
    encoded.clear()
    assert encoder.examples(OF_ALL_KINDS + FREE + long) == one
    assert len(encoded) >= 2 * len(OF_ALL_KINDS + FREE + long)


def test_an_ending_of_its_own_takes_two_encodes(encoded):
    """The frame ends in a newline, which goes with a colon before it, unless an answer follows: ":\n", but ":" "\nYes"."""
    encoder = RecordTokenizer(merging(*YES, *NO, ": Ċ"), Frame("short", "{input}\n", "{instruction}\n"), 512)
    for text, boundary, encodes in (("Nighti", 6, 1), ("Night:", 5, 2)):
        row = {"instruction": "", "input": text, "output": "Yes."}
        encoded.clear()
        assert encoder.examples([row]).rows[0]["answer_start"] == boundary
        check_rows(encoder, [row])
        assert len(encoded) == 2 * encodes


def test_the_settings_a_tokenizer_was_left_with_change_nothing(tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    encoder = RecordTokenizer(tokenizer, load_frame("alpaca"), 512)
    expected = encoder.examples([*OF_ALL_KINDS, *FREE])
    backend = tokenizer.backend_tokenizer
    backend.enable_padding(length=2000)
    backend.enable_truncation(7)
    backend.encode_special_tokens = True
    assert encoder.examples([*OF_ALL_KINDS, *FREE]) == expected


@pytest.mark.parametrize("name", ["pocket-llama", "smollm2-135m"])
def test_real_records(shared_data, encoded, name):
    base = REPOSITORY / "base_model" / name
    if not base.exists():
        pytest.skip(f"no {base.name}")
    records = read_records(shared_data / "instruction_data" / "netflix" / "train.json")[::40]
    encoder = RecordTokenizer(load_tokenizer(base), load_frame("alpaca"), 512)
    encoded.clear()
    check_rows(encoder, records)
    assert len(encoded) == len(records)
