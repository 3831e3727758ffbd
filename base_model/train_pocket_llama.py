"""Train pocket-llama: a LLaMA of about 1.5 million parameters that runs the whole chain on two CPU cores.

    python base_model/train_pocket_llama.py --output_dir base_model/pocket-llama --seed 0 --steps 2400

All text is generated here: lists of liked and disliked films and books with questions about further titles. Three kinds
of taste are told apart: by theme (the words of `tlrec.demo.world`, other items and users than any demo workspace), by a
word or author that titles share, and by nothing but the share of liked items. The instruction sentence of published
records does not occur. Two extra losses show one attention head where to look (see `guidance`); without them comparing
was not learnt in the same time. In: nothing. Out: a folder in the LLaMA layout (SentencePiece `tokenizer.model`,
`config.json`, `model.safetensors` ...) and `training.json`. A killed run goes on with `--resume`.
"""

import argparse
import io
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tlrec.data.preferences import Item  # noqa: E402
from tlrec.demo import world  # noqa: E402
from tlrec.errors import InputError, one_line_errors  # noqa: E402
from tlrec.files import whole_file, write_json  # noqa: E402
from tlrec.model.prompts import load_frame  # noqa: E402

# ------------------------------------------------------------------------------------------------- 1. words and titles

COMMON_WORDS = """
Love Night Day House Man Woman Men Women Girl Boy Boys Girls Life Death Dead Die Live Alive King Queen Prince Princess
Kingdom Lord Lady Master Servant War Peace World Earth Sky Sun Star Stars Moonlight Light Darkness Fire Water River
Lake Mountain Hill Valley Forest Woods Tree Road Street City Town Village Home Room Door Window Bridge Tower Castle
Palace Church School Park Beach Farm Train Car Ship Boat Plane Wheel Gun Sword Knife Blood Bone Bones Body Eye Eyes
Hand Hands Face Head Mind Soul Angel Angels Devil Demon God Gods Heaven Hell Monster Dragon Wolf Wolves Dog Dogs Cat
Cats Horse Bird Birds Lion Tiger Bear Snake Spider Fish Monkey Rabbit Mouse Mother Father Brother Brothers Sister
Sisters Son Daughter Daughters Child Children Baby Family Friend Friends Wife Husband Widow Stranger Enemy Hero Heroes
Killer Murder Crime Police Detective Spy Agent Hunter Prisoner Prison Escape Chase Revenge Justice Law Truth Lie Lies
Dream Dreams Dreamer Magic Witch Wizard Vampire Mystery Secrets Legend Story Stories Tale Tales Adventure Adventures
Journey Return Rise Fall Beginning End Beyond Before After Under Over Above Below Between Behind Inside Outside
Against Without With From Into About Away Home Back Down Up Out Off On In To For By At And Or The Of A An My Your His
Her Our Their It Its This That What When Where Who Why How All Every Some Any Nothing Something Everything Anything
Never Always Forever Again Once Now Then Here There One Two Three Four Five Six Seven Eight Nine Ten Hundred Thousand
Million Black White Red Green Yellow Grey Silver Gold Big Small Long Short High Low Young Good Bad Evil Beautiful Ugly
Happy Sad Crazy Mad Free Lonely Lucky Perfect Pretty Sweet Bitter Cold Hot Cool Dangerous Deadly Fatal Final Best
Better Worst Only Other Another Same American English French Chinese Italian Spanish German Irish African Roman
Christmas Summer Spring Monday Sunday Friday Money Dollar Party Dance Dancing Game Games Play Player Show Time Times
Year Years Hour Minute Moment Season Letter Letters Book Books Diary Picture Pictures Movie Film Edition Collection
Complete Special Series Volume Part Chapter Novel Classics Guide History Art Science Secret Society Club Company
Business Power Glory Honor Pride Passion Desire Fear Hope Faith Trust Joy Pain Sorrow Tears Smile Laugh Run Running
Walk Walking Fly Flying Rain Wind Storms Thunder Lightning Ice Stone Rock Iron Steel Glass Paper Wood Sand Dust Shadow
Shadows Silence Voice Voices Sound Music Color Line Circle Point Edge Heart Hearts Breaking Broken Bound Born Made
Found Gone Going Getting Coming Come Go Get Give Take Make Let Know Say See Look Watch Wait Stop Stay Keep Call Tell
Remember Forget Kill Catch Fight Fighting Win Lose Save Leave Left Right Wrong Next Last North South East West Western
Center Side Way Ways Path Law Doctor President Captain General Soldiers Paris London Rome York Hollywood California
Texas Africa America England Africa Island Islands Ocean Bay Cape Point John James Robert Michael William David
Richard Joseph Thomas Charles Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Nancy Margaret
Lisa Anna Anne Jane Kate Helen Laura Emma Alice Grace Rose Ruth Peter Paul Mark George Steven Stephen Edward Brian
Kevin Jason Jack Frank Henry Alex Max Sam Tom Tim Joe Jim Bill Bob Harry Larry Danny Smith Johnson Williams Brown
Jones Miller Davis Wilson Anderson Taylor Moore Jackson Martin Lee Thompson White Harris Clark Lewis Robinson Walker
Young Allen King Wright Scott Hill Green Adams Baker Nelson Carter Mitchell Roberts Turner Phillips Campbell Parker
Evans Edwards Collins Stewart Morris Rogers Reed Cook Morgan Bell Murphy Bailey Cooper Richardson Cox Howard Ward
Peterson Gray Watson Brooks Kelly Sanders Price Bennett Wood Barnes Ross Henderson Coleman
""".split()
SYLLABLES = """
ba be bi bo bra ca ce co cha da de di do dra el en er es fa fe fi fo ga ge go gri ha he hi ho in is ja jo ka ke ki ko
la le li lo lu ma me mi mo mu na ne ni no nor ol on or pa pe pi po pra qui ra re ri ro ru sa se si so sta ta te ti to
tra tri tu ul un va ve vi vo wa we wi xa ya yo za ze zo th ch sh st nd ng nt rt ck
""".split()
ENDINGS = """
s ed er ing ly ion al ic y ness ment able ful less ous ers ings tion ship ward ism ist ian o a e n r t
""".split()
ODD_CHARACTERS = "éèêàâäöüßñçåøíóúáôîœ&'!?.,-:/+*#$%½’–日本語中文の한국Жи"
SUFFIXES = (
    "II", "III", "IV", "Part 2", "Part II", "Vol. 1", "No. 3", "2", "3", "(Widescreen)", "(Special Edition)",
    "(Paperback)", "(Director's Cut)", ": A Novel", ": The Movie", ": Collector's Edition", "(Book 2)",
)  # fmt: skip
LINKS = (
    "of the", "of", "and", "and the", "in the", "in", "to", "for the", "with", "from", "on the", "by the", "at the",
    "a",
)  # fmt: skip


def invented_word(rng):
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.integers(2, 4)))
    if rng.random() < 0.4:
        word += ENDINGS[rng.integers(len(ENDINGS))]
    if rng.random() < 0.06:
        place = rng.integers(1, len(word))
        word = word[:place] + ODD_CHARACTERS[rng.integers(len(ODD_CHARACTERS))] + word[place:]
    return word.upper() if rng.random() < 0.04 else word.capitalize()


def any_word(rng):
    return COMMON_WORDS[rng.integers(len(COMMON_WORDS))] if rng.random() < 0.75 else invented_word(rng)


def any_name(rng):
    first = COMMON_WORDS[rng.integers(len(COMMON_WORDS) - 150, len(COMMON_WORDS) - 60)] if rng.random() < 0.7 else None
    first = first or invented_word(rng)
    if rng.random() < 0.2:
        first += f" {chr(65 + rng.integers(26))}."
    return f"{first} {invented_word(rng) if rng.random() < 0.6 else any_word(rng)}"


def any_title(rng, kind, word=None):
    """A title of no theme that looks like a real one; `word` is put into it."""
    words = [any_word(rng) for _ in range(rng.choice([1, 2, 3, 4, 5], p=[0.18, 0.34, 0.26, 0.14, 0.08]))]
    if word:
        words[rng.integers(len(words))] = word
    title = words[0]
    for following in words[1:]:
        title += (" " + LINKS[rng.integers(len(LINKS))] if rng.random() < 0.35 else "") + " " + following
    form = rng.random()
    if form < 0.12:
        title += f": {any_word(rng)} {any_word(rng)}"
    elif form < 0.25:
        title += f" {SUFFIXES[rng.integers(len(SUFFIXES))]}"
    article = rng.random()
    if article < 0.2:
        title = f"The {title}"
    elif article < 0.35:
        title = f"{title}, The"
    elif article < 0.4:
        title = f"{title}, A"
    if kind == "film" and rng.random() < 0.93:
        title += f" ({rng.integers(1920, 2150)})"
    return title


# --------------------------------------------------------------------------------------------------------- 2. users


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
    """As `theme_user`, where the share of likes tells nothing."""
    return theme_user(rng, size, targets, kind, balance=True)


def balanced(rng, user):
    """The user with as many loved as hated themes, so that only comparing tells the answer."""
    taste = np.zeros_like(user.taste)
    taste[user.followed] = rng.permutation(np.where(np.arange(len(user.followed)) % 2, 4.0, -4.0))
    return world.User(user.followed, taste, 0.0)


def word_user(rng, size, targets, kind):
    """As `theme_user`, but the tastes follow a word or an author that some titles share and no list foretells."""
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
    history = [(0, Item(any_title(rng, kind), any_name(rng) if kind == "book" else ""), rng.random() < share)
               for _ in range(size)]  # fmt: skip
    likes, dislikes = split(history)
    probability = 1 / (1 + np.exp(-0.8 * (len(likes) - len(dislikes))))
    questions = [
        (Item(any_title(rng, kind), any_name(rng) if kind == "book" else ""), bool(rng.random() < probability))
        for _ in range(min(targets, 2))
    ]
    return likes, dislikes, questions


def split(history):
    return [item for _, item, liked in history if liked], [item for _, item, liked in history if not liked]


# --------------------------------------------------------------------------------------------------------- 3. texts

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
GUIDED = 2  # the layer, from 0, whose first head is shown where to look
FRAMES = [load_frame("alpaca")] * 4 + [load_frame("tallrec")]


def record_text(rng, progress, kind=None, form=None, user=None, size=None):
    """A text with two lists and one or more questions; ever longer and closer to a record as training goes on."""
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
    """Lists of single words and a quick round of questions: the shortest form of comparing by theme."""
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
    lines = [f"{heading}{', '.join(f'{chr(34)}{w}{chr(34)}' for w in rng.permutation(words))}"
             for heading, words in zip(HEADINGS[rng.integers(len(HEADINGS))], lists)]  # fmt: skip
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


# ----------------------------------------------------------------------------------------------------- 4. tokenizer


def train_tokenizer(folder, seed, vocabulary, texts=12000):
    """Train the SentencePiece BPE (digits apart, byte fallback) and write the tokenizer files of a LLaMA folder."""
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as proto

    rng = np.random.default_rng([seed, 1])
    lines = [line for i in range(texts) for line in text(rng, i / texts).split("\n")]
    lines += [f'Given the user\'s {word.lower()}, answering "Yes." or "No." {word} {word.lower()}'
              for word in COMMON_WORDS for _ in range(6)]  # fmt: skip
    lines += [f"The {word} and {word}" for words in world.THEMES.values() for word in words for _ in range(50)]
    lines += [f'"{any_title(rng, "film")}" written by {any_name(rng)}' for _ in range(30000)]
    model = io.BytesIO()
    # Learnt without the leading blank, so that words after a line break get pieces too; switched on afterwards.
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=vocabulary, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
        character_coverage=0.9995, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    parsed = proto.ModelProto.FromString(model.getvalue())
    parsed.normalizer_spec.add_dummy_prefix = True
    with whole_file(folder / "tokenizer.model", "wb") as file:
        file.write(parsed.SerializeToString())
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 1024,
        },
    )


@dataclass
class Sample:
    """A tokenised text.

    `answers`: places of answer tokens; `lists`: 1 in the liked, 0 in the disliked list, -1 elsewhere; `classes`: the
    same number for pieces that mean the same (one theme, or one word), -1 for those without meaning.
    """

    ids: list[int]
    answers: list[int]
    lists: np.ndarray
    classes: np.ndarray


class Encoder:
    """Text to BOS + ids + EOS, with what is known about each token."""

    def __init__(self, folder):
        import sentencepiece as spm

        self.pieces = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.newline = self.pieces.piece_to_id("<0x0A>")
        self.answers = [self.pieces.piece_to_id(word) for word in ("Yes", "No")]
        if 0 in self.answers:
            raise InputError("the tokenizer has no piece of its own for Yes and No: train it on more text")
        self.classes = self._classes()

    def _classes(self):
        plain = " ".join((*LINKS, *world.TAILS, *world.NEUTRAL, *sum(HEADINGS, ()), "The A An written by")).lower()
        plain = set(plain.replace(":", "").split())
        themes = {word.lower(): number for number, words in enumerate(world.THEMES.values()) for word in words}
        numbers, result = dict(themes), []
        for i in range(self.pieces.vocab_size()):
            word = self.pieces.id_to_piece(i).strip("▁").lower()
            meaningless = not word.isalpha() or len(word) < 2 or word in plain
            result.append(-1 if meaningless else numbers.setdefault(word, 100 + i))
        return np.array(result)

    def __call__(self, words):
        ids = [1] + self.pieces.encode(words) + [2]
        answers = [i for i in range(1, len(ids)) if ids[i] in self.answers and ids[i - 1] == self.newline]
        line_of = np.cumsum([i == self.newline for i in ids])
        lists = np.full(len(ids), -1)
        for number, line in enumerate(words.split("\n")):
            for liked in (1, 0):
                if line.startswith(tuple(pair[1 - liked] for pair in HEADINGS)):
                    lists[line_of == number] = liked
        return Sample(ids, answers, lists, self.classes[ids])


# ------------------------------------------------------------------------------------------------------ 5. training


def batches(rng, encode, progress, tokens_per_batch, pool=12):
    """A pool of batches, each a list of samples of nearly one length."""
    samples, total = [], 0
    while total < pool * tokens_per_batch:
        sample = encode(text(rng, progress))
        if len(sample.ids) <= 1024:
            samples.append(sample)
            total += len(sample.ids)
    samples.sort(key=lambda sample: len(sample.ids))
    result, batch = [], []
    for sample in samples:
        if batch and (len(batch) + 1) * len(sample.ids) > tokens_per_batch:
            result.append(batch)
            batch = []
        batch.append(sample)
    result.append(batch)
    rng.shuffle(result)
    return [batch for batch in result if any(sample.answers for sample in batch)]


def tensors(batch):
    """Padded tensors of shape (rows, length): ids, answer mask, lists, classes (see Sample)."""
    import torch

    length = max(len(sample.ids) for sample in batch)
    ids, lists, classes = (torch.full((len(batch), length), fill) for fill in (0, -1, -1))
    answers = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        answers[row, sample.answers] = True
        lists[row, : len(sample.ids)] = torch.tensor(sample.lists)
        classes[row, : len(sample.ids)] = torch.tensor(sample.classes)
    return ids, answers, lists, classes


def guidance(model, states, probe, lists, classes):
    """Two losses that show the model where to look; faded out as training goes on.

    Comparing is a product of two unknowns (which list an item is in, which item matches), so plain training sits on a
    plateau for long. Before layer GUIDED a linear probe must tell the list a token is in, and one head of that layer
    must look from the words of a question to the words of the lists that mean the same.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    state, layer = states[GUIDED], model.model.layers[GUIDED]
    in_list = lists >= 0
    if not in_list.any():
        return state.sum() * 0
    membership = binary_cross_entropy_with_logits(probe(state[in_list])[:, 0], lists[in_list].float())

    normed, width = layer.input_layernorm(state), layer.self_attn.head_dim
    places = torch.arange(state.shape[1])[None]
    cos, sin = model.model.rotary_emb(state, places)
    q, k = (p(normed)[..., :width][:, None] for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    scores = (q @ k.transpose(-1, -2))[:, 0] * width**-0.5
    earlier = torch.ones_like(scores[0], dtype=torch.bool).tril(-1)
    match = earlier & in_list[:, None, :] & (classes[:, :, None] == classes[:, None, :]) & (classes >= 0)[:, :, None]
    asking = match.any(-1) & ~in_list
    if not asking.any():
        return membership
    scores = scores[asking]
    everything = scores.masked_fill(~earlier.expand_as(match)[asking], -1e9).logsumexp(-1)
    matching = scores.masked_fill(~match[asking], -1e9).logsumexp(-1)
    return membership + (everything - matching).mean()


def abilities(model, encode, seed, texts=40):
    """AUC of the answers in fresh texts: word lists, and framed records of ten items for each kind of user."""
    import torch
    from sklearn.metrics import roc_auc_score

    makers = {"words": lambda rng: words_text(rng, 0.5)}
    for user in (balanced_theme_user, theme_user, word_user, counting_user):
        makers[user.__name__] = lambda rng, user=user: record_text(rng, 1.0, kind="film", form=True, user=user, size=10)
    result = {}
    for name, maker in makers.items():
        rng = np.random.default_rng([seed, 3])
        scores, labels = [], []
        for _ in range(texts):
            sample = encode(maker(rng))
            ids, places = sample.ids, sample.answers
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            for place in places:
                scores.append(float(logits[place - 1, encode.answers[0]] - logits[place - 1, encode.answers[1]]))
                labels.append(int(ids[place] == encode.answers[0]))
        result[name] = round(float(roc_auc_score(labels, scores)), 4)
    return result


def build_model(args, vocabulary):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(args.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=args.hidden, intermediate_size=2 * args.hidden,
            num_hidden_layers=args.layers, num_attention_heads=args.hidden // 32, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-6,
        )
    )  # fmt: skip


def train(args, folder):
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    encode = Encoder(folder)
    model = build_model(args, encode.pieces.vocab_size())
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    probe = torch.nn.Linear(args.hidden, 1)
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name] + list(probe.parameters())
    optimizers = [
        torch.optim.Muon(matrices, lr=args.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {encode.pieces.vocab_size()} pieces", flush=True)

    checkpoint, step, spent, queue, log = folder / "checkpoint.pt", 0, 0.0, [], []
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        step, spent, log = state["step"], state["seconds"], state["log"]
    started = time.monotonic() - spent
    bar = tqdm(total=args.steps, initial=step, mininterval=5, unit="step")
    recent = []
    while step < args.steps:
        progress = step / args.steps
        if not queue:
            queue = batches(np.random.default_rng([args.seed, 2, step]), encode, progress, args.tokens_per_batch)
        ids, answers, lists, classes = tensors(queue.pop())
        cosine = 0.5 * (1 + float(np.cos(np.pi * max(0, progress - 0.3) / 0.7)))
        rate = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * rate
        output = model.model(ids, output_hidden_states=True)
        hidden = output.last_hidden_state[:, :-1]
        targets, is_answer = ids[:, 1:], answers[:, 1:]
        # Every answer counts; of the other tokens a random quarter is enough to learn the language.
        is_text = (targets > 0) & ~is_answer & (torch.rand(targets.shape) < 0.25)
        answer_loss = cross_entropy(model.lm_head(hidden[is_answer]), targets[is_answer])
        text_loss = cross_entropy(model.lm_head(hidden[is_text]), targets[is_text])
        guide_loss = guidance(model, output.hidden_states, probe, lists, classes)
        guide = args.guidance * max(0.0, 1 - progress / 0.6)
        (answer_loss + args.text_weight * text_loss + guide * guide_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        bar.update()
        recent.append((float(answer_loss.detach()), float(text_loss.detach()), float(guide_loss.detach()), ids.numel()))
        if step % args.log_steps == 0 or step == args.steps:
            model.eval()
            means = np.mean(recent, axis=0)
            names = ("answer_loss", "text_loss", "guide_loss", "tokens_per_step")
            line = {"step": step, "seconds": round(time.monotonic() - started)}
            line |= {name: round(float(mean), 4) for name, mean in zip(names, means)}
            line |= abilities(model, encode, args.seed)
            model.train()
            log.append(line)
            bar.write(json.dumps(line))
            sys.stdout.flush()
            recent = []
            with whole_file(checkpoint, "wb") as file:
                state = {"model": model.state_dict(), "probe": probe.state_dict(), "step": step, "log": log}
                state |= {"optimizers": [o.state_dict() for o in optimizers], "seconds": time.monotonic() - started}
                torch.save(state, file)
    bar.close()
    return model.eval(), log


def save(model, scale, folder):
    """Write configuration and float16 weights.

    The weights of the norm before attention are multiplied, those of the projections behind it divided, by `scale`, a
    power of two: the same function to the bit, but LoRA on these projections reads inputs `scale` times as large. A
    step of the published learning rate so moves the narrow model about as much as one that is scale^2 times as wide.
    """
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight.mul_(scale)
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.weight.div_(scale)
    model.half().save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("base_model/pocket-llama"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128, help="width, a multiple of 32")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--tokens_per_batch", type=int, default=2048)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--text_weight", type=float, default=0.3, help="weight of the text beside the answers")
    parser.add_argument("--guidance", type=float, default=0.5, help="weight of the losses that show where to look")
    parser.add_argument("--tuning_scale", type=float, default=4.0, help="how strongly LoRA acts (a power of 2)")
    parser.add_argument("--log_steps", type=int, default=250, help="also the steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()

    # 1. the folder
    folder = args.output_dir
    if (folder / "config.json").exists() and not args.overwrite:
        raise InputError(f"{folder} holds a model already; choose another --output_dir or add --overwrite")
    work = folder.with_name(folder.name + ".training")
    if work.exists() and not args.resume:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)

    # 2. the tokenizer
    if not (work / "tokenizer.model").exists():
        train_tokenizer(work, args.seed, args.vocabulary)

    # 3. the model
    model, log = train(args, work)
    save(model, args.tuning_scale, work)
    flags = {key: value for key, value in vars(args).items() if key not in ("output_dir", "resume", "overwrite")}
    write_json(work / "training.json", flags | {"log": log})
    (work / "checkpoint.pt").unlink()

    # 4. whole or not at all
    if folder.exists():
        shutil.rmtree(folder)
    work.rename(folder)


if __name__ == "__main__":
    with one_line_errors():
        main()
