"""A fictional world: films and books with themes, users with tastes, and the exact probability of every answer.

Nothing here is real. Films are dated 2101 to 2199, authors are invented. An item has one theme, given by the words of
its title; an author writes on one theme only. A user follows a few themes and loves, hates or does not mind each:

    P(user likes item) = sigmoid(generosity + taste[theme] + (sequels[domain] if the item is a sequel))

so the score of an oracle that knows the simulated tastes but sees only the record, P(target liked | the history of the
record), is known in closed form except for a one-dimensional grid (`like_posterior`). Source and target domains share
themes and words, not items.
"""

from dataclasses import dataclass

import numpy as np

from tlrec.data.preferences import Item, Preference

THEMES = {
    "sea": "Harbor Tide Sailor Ocean Reef Anchor Voyage Captain Shipwreck Lighthouse".split(),
    "heist": "Heist Vault Thief Diamond Robbery Getaway Bandit Loot Swindle Jewel".split(),
    "ghost": "Ghost Haunting Phantom Specter Crypt Seance Curse Grave Spirit Tomb".split(),
    "court": "Verdict Jury Lawyer Trial Judge Witness Alibi Testimony Court Appeal".split(),
    "garden": "Garden Orchard Rose Blossom Lily Meadow Petal Vineyard Ivy Seed".split(),
    "robot": "Robot Android Circuit Machine Automaton Cyborg Engine Algorithm Gear Computer".split(),
    "space": "Planet Galaxy Rocket Astronaut Comet Orbit Starship Nebula Moon Alien".split(),
    "war": "Battle Soldier Regiment Trench General Siege Army Cannon Fortress Sergeant".split(),
    "music": "Song Violin Orchestra Piano Melody Opera Drummer Jazz Choir Waltz".split(),
    "kitchen": "Kitchen Chef Recipe Banquet Bakery Spice Soup Feast Chocolate Bread".split(),
    "western": "Saddle Sheriff Cowboy Prairie Outlaw Ranch Saloon Canyon Stagecoach Mustang".split(),
    "winter": "Snow Blizzard Glacier Ice Frost Sled Winter Avalanche Igloo Tundra".split(),
}
THEME_NAMES = tuple(THEMES)
_THEME_OF_WORD = {word: theme for theme, words in THEMES.items() for word in words}

# Words without a theme.
NEUTRAL = (
    "Silent Last Hidden Long Golden Broken Distant Strange Quiet Second Lost Secret Crimson Little Great Old New Final "
    "Wild Forgotten First Dark Blue Hollow"
).split()
TAILS = ("at Midnight", "of Tomorrow", "for Two", "in Autumn", "of Yesterday", "and the Stranger", "by Night")

# Each part of the world ("corner") has its own years and authors, so no item is in two of them.
YEARS = {"pretraining": (2101, 2149), "source": (2150, 2174), "target": (2175, 2199)}
_SURNAMES = {
    "pretraining": "Marlow Tennant Okoro Vance Pell Ruiz Dahl Ives Corbin Nakata Sorel Hobbs".split(),
    "source": "Quillan Averly Bresk Dorne Fenwick Galt Harrow Isling Jorvik Kestrel Lorne Mereth".split(),
    "target": "Norwick Ostrey Pryde Quarrel Rusk Selwyn Tarrant Umber Verrin Wexley Yarrow Zell".split(),
}
_FORENAMES = "Ada Ben Clara Dan Elsa Finn Greta Hugo Iris Jonas Kara Leo Mina Nils Olga Paul".split()
AUTHORS_PER_THEME = 3

# Tastes.
FOLLOWED_THEMES = 4  # themes a user's items come from
TASTE = 3.0  # log-odds of a loved theme, minus this for a hated one
TASTE_SHARES = {1: 0.4, -1: 0.4, 0: 0.2}  # loved, hated, does not mind
GENEROSITY_SD = 0.6


@dataclass(frozen=True)
class Domain:
    """One catalogue. `kind` is the word of the record ("movie", "book"); `sequels` the log-odds that a sequel gains."""

    name: str
    corner: str  # key of YEARS
    kind: str
    article_last: bool  # "Harbor, The" as in MovieLens
    level: float  # mean generosity
    sequels: float


# Themes carry over from source to target. Only target records show that users there dislike sequels.
SEQUEL, SEQUEL_SHARE = " II", 0.4
DOMAINS = {
    "netflix": Domain("netflix", "source", "movie", False, level=0.3, sequels=0.0),
    "movie": Domain("movie", "target", "movie", True, level=0.6, sequels=-3.5),
    "amazon-book": Domain("amazon-book", "source", "book", False, level=0.3, sequels=0.0),
    "book": Domain("book", "target", "book", False, level=0.6, sequels=-3.5),
}


def themes_in(text):
    """The themes whose words occur in a text, in the order of their first word."""
    words = text.replace(",", " ").replace(":", " ").split()
    return list(dict.fromkeys(_THEME_OF_WORD[word] for word in words if word in _THEME_OF_WORD))


def theme_of(title):
    """The theme of a fictional title, found by its words, or None if no word has a theme."""
    return next(iter(themes_in(title)), None)


def authors_of(corner, theme):
    """The invented authors of a corner of the world who write about a theme."""
    surnames, start = _SURNAMES[corner], THEME_NAMES.index(theme)
    return [
        f"{_FORENAMES[(5 * start + 3 * i) % len(_FORENAMES)]} {surnames[(start + 4 * i) % len(surnames)]}"
        for i in range(AUTHORS_PER_THEME)
    ]


def is_sequel(item):
    return SEQUEL in item.title


def make_item(rng, theme, corner, kind="movie", article_last=False, sequels=0.0):
    """Draw an item of a theme. Films carry a year of their corner, books an author of their corner and theme.

    sequels: share of titles that end in "II".
    """
    words = THEMES[theme]
    word, neutral = words[rng.integers(len(words))], NEUTRAL[rng.integers(len(NEUTRAL))]
    form = rng.integers(6)
    article, title = {0: "The", 1: "A", 4: "The"}.get(form, ""), f"{neutral} {word}"
    if form == 2:
        title = f"{word} {TAILS[rng.integers(len(TAILS))]}"
    elif form == 3:
        title = f"{word} and {words[(words.index(word) + 1 + rng.integers(len(words) - 1)) % len(words)]}"
    elif form == 4:
        title = word
    if article == "A" and title[0] in "AEIOU":
        article = "An"
    if article:
        title = f"{title}, {article}" if article_last else f"{article} {title}"
    if sequels and rng.random() < sequels:
        title += SEQUEL
    if kind == "book":
        authors = authors_of(corner, theme)
        return Item(title, authors[rng.integers(len(authors))])
    first, last = YEARS[corner]
    return Item(f"{title} ({rng.integers(first, last + 1)})")


def make_catalogue(rng, domain, items_per_theme=25):
    """The items of a domain: a dict from theme to a list of distinct items."""
    catalogue = {}
    for theme in THEME_NAMES:
        items = {}
        while len(items) < items_per_theme:
            items[make_item(rng, theme, domain.corner, domain.kind, domain.article_last, SEQUEL_SHARE)] = None
        catalogue[theme] = list(items)
    return catalogue


@dataclass(frozen=True)
class User:
    """`followed`: indices of the themes their items come from; `taste`: log-odds per theme, shape (themes,)."""

    followed: np.ndarray
    taste: np.ndarray
    generosity: float

    def like_probability(self, theme, shift=0.0):
        """P(like) for an item of the theme with that index. shift: added to its log-odds for all users (sequels)."""
        return float(_sigmoid(self.generosity + self.taste[theme] + shift))


def make_user(rng, level=0.0, taste=TASTE, generosity_sd=GENEROSITY_SD, followed=FOLLOWED_THEMES):
    """Draw a user: tastes are independent of which themes the user follows."""
    return User(
        followed=rng.permutation(len(THEME_NAMES))[:followed],
        taste=taste * rng.choice(list(TASTE_SHARES), p=list(TASTE_SHARES.values()), size=len(THEME_NAMES)),
        generosity=level + generosity_sd * rng.standard_normal(),
    )


def like_posterior(history, target, level):
    """P(target liked | history): the score of an oracle that knows the simulated tastes but sees only the record.

    `history` is a list of (theme index, shift, liked), `target` a pair (theme index, shift), `level` the domain's mean
    generosity. Tastes are summed out theme by theme, generosity over a grid.
    """
    z = np.linspace(-4, 4, 81)
    generosity = level + GENEROSITY_SD * z
    log_weight = -0.5 * z**2
    target_theme, target_shift = target
    by_theme = {target_theme: []}
    for theme, shift, liked in history:
        by_theme.setdefault(theme, []).append((shift, 1.0 if liked else -1.0))
    for theme, seen in by_theme.items():
        total, total_liked = np.zeros_like(z), np.zeros_like(z)
        for taste, share in TASTE_SHARES.items():
            log_odds = generosity + TASTE * taste
            likelihood = share * np.prod(
                [np.ones_like(z)] + [_sigmoid(sign * (log_odds + s)) for s, sign in seen], axis=0
            )
            total += likelihood
            total_liked += likelihood * _sigmoid(log_odds + target_shift)
        log_weight = log_weight + np.log(total)
        if theme == target_theme:
            target_liked = total_liked / total
    weight = np.exp(log_weight - log_weight.max())
    return float((weight * target_liked).sum() / weight.sum())


@dataclass(frozen=True)
class Example:
    """A record's content with its ground truth: the label and the best reachable score."""

    preference: Preference
    liked: bool
    posterior: float


def make_examples(rng, domain, catalogue, count, windows_per_user=5, history=10):
    """Draw `count` examples: sliding windows of `history` items over fresh users, the next item as the target.

    Some books have shorter histories, as in the published book data. No item occurs twice in a window.
    """
    examples = []
    while len(examples) < count:
        user = make_user(rng, domain.level)
        seen = {}  # item: ((theme, shift), whether it is liked), in time order
        while len(seen) < history + windows_per_user:
            theme = int(rng.choice(user.followed))
            pool = catalogue[THEME_NAMES[theme]]
            item = pool[rng.integers(len(pool))]
            if item not in seen:
                shift = domain.sequels if is_sequel(item) else 0.0
                seen[item] = (theme, shift), bool(rng.random() < user.like_probability(theme, shift))
        items = list(seen)
        for end in range(history, history + windows_per_user):
            length = int(rng.integers(2, history + 1)) if domain.kind == "book" else history
            window, (traits, liked) = items[end - length : end], seen[items[end]]
            likes = tuple(item for item in window if seen[item][1])
            dislikes = tuple(item for item in window if not seen[item][1])
            history_traits = [(*seen[item][0], seen[item][1]) for item in window]
            posterior = like_posterior(history_traits, traits, domain.level)
            examples.append(Example(Preference(likes, dislikes, items[end], domain.kind), liked, posterior))
    return examples[:count]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))
