"""pocket-llama's tokenizer, and its training text as tokens with labels (see `train.py`)."""

import io
from dataclasses import dataclass

import numpy as np
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as proto
from texts import QUESTIONS, TASKS, WORDS_TO_REPEAT, Text, text
from words import COMMON_WORDS, LINKS, PLAIN_WORDS, any_name, any_title

from tlrec.demo import world
from tlrec.files import whole_file, write_json


def train_tokenizer(folder, seed, vocabulary):
    """Train the SentencePiece BPE (single digits, byte fallback) and write the tokenizer files of a LLaMA folder."""
    rng = np.random.default_rng([seed, 1])
    lines = [line for i in range(12000) for line in text(rng, i / 12000).words.split("\n")]
    lines += [f"{word} {word.lower()} {word}" for word in COMMON_WORDS for _ in range(6)]
    lines += [f"{word.capitalize()} {word} {word}" for word in PLAIN_WORDS for _ in range(100)]
    lines += [f"{word}." for word in WORDS_TO_REPEAT for _ in range(300)]
    lines += [f"The {word} and {word}" for words in world.THEMES.values() for word in words for _ in range(50)]
    lines += [f'"{any_title(rng, "film")}" written by {any_name(rng)}' for _ in range(30000)]
    model = io.BytesIO()
    # Trained without the leading space, so that words after a line break get pieces too; switched on afterwards.
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        character_coverage=0.9995,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
        allow_whitespace_only_pieces=True,
    )
    parsed = proto.ModelProto.FromString(model.getvalue())
    parsed.normalizer_spec.add_dummy_prefix = True
    with whole_file(folder / "tokenizer.model", "wb") as file:
        file.write(parsed.SerializeToString())
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    config |= {"clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 1024}
    write_json(folder / "tokenizer_config.json", special | config)


@dataclass
class Sample:
    """A tokenised text.

    `answers`: places of the tokens that name a list; `lists`: 1 in the first, 0 in the second list, -1 elsewhere;
    `classes`: the same number for pieces that mean the same (one theme, or one word), -1 for those without meaning.
    """

    ids: list[int]
    answers: list[int]
    lists: np.ndarray
    classes: np.ndarray


class Encoder:
    """Text to BOS + ids + EOS, with what is known about each token."""

    def __init__(self, folder):
        self.pieces = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.newline = self.pieces.piece_to_id("<0x0A>")
        self.names = {word: self.pieces.piece_to_id(word) for word in WORDS_TO_REPEAT}
        self.classes = self._classes()

    def _classes(self):
        plain = " ".join((*LINKS, *world.TAILS, *world.NEUTRAL, *QUESTIONS, *TASKS, "The A An written by film")).lower()
        plain = set("".join(c if c.isalpha() else " " for c in plain).split())
        themes = {word.lower(): number for number, words in enumerate(world.THEMES.values()) for word in words}
        numbers, result = dict(themes), []
        for i in range(self.pieces.vocab_size()):
            word = self.pieces.id_to_piece(i).strip("▁").lower()
            meaningless = not word.isalpha() or len(word) < 2 or word in plain
            result.append(-1 if meaningless else numbers.setdefault(word, 100 + i))
        return np.array(result)

    def __call__(self, text: Text):
        ids = [1] + self.pieces.encode(text.words) + [2]
        is_newline = np.array([i == self.newline for i in ids])
        line_of = np.cumsum(is_newline)
        answers = [int(np.flatnonzero(line_of == line)[1]) for line in text.answer_lines]
        lists = np.full(len(ids), -1)
        for line, number in zip(text.list_lines, (1, 0)):
            lists[(line_of == line) & ~is_newline] = number
        return Sample(ids, answers, lists, self.classes[ids])
