"""A fictional world: films and books with themes, users with tastes, and the exact probability of every answer.

Nothing here is real. Films are dated 2101 to 2199, authors are invented. An item has one theme, told by the words of
its title; an author keeps to one theme. A user follows a few themes and loves, hates or does not mind each of them:

    P(user likes item) = sigmoid(generosity + taste[theme] + popularity[domain][theme])

so the best score that any reader of a record could give, P(target liked | the history of the record), is known in
closed form up to a one-dimensional grid (`like_posterior`). Source and target domain share themes and words, not items.
"""

from dataclasses import dataclass

import numpy as np

from tlrec.records import Item, Preference

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

# Every corner of the world has its own years and its own authors, so the items of two corners are never the same.
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
TASTE = 2.0  # log-odds of a loved theme, minus this for a hated one
TASTE_SHARES = {1: 0.4, -1: 0.4, 0: 0.2}  # loved, hated, does not mind
GENEROSITY_SD = 0.6


@dataclass(frozen=True)
class Domain:
    """One catalogue. `kind` is the word of the record ("movie", "book"); `popularity` a log-odds per theme."""

    name: str
    corner: str  # key of YEARS
    kind: str
    article_last: bool  # "Harbor, The" as in MovieLens
    popularity: tuple[float, ...]
    level: float = 0.0  # mean generosity


def _shifts(**by_theme):
    return tuple(by_theme.get(theme, 0.0) for theme in THEME_NAMES)


# The taste of the time: some themes please nearly everybody and some nearly nobody, in source and target alike, so what
# is learnt from the source carries over. In two themes the target thinks otherwise, and a few shots can teach that.
FASHION = dict(sea=1.6, robot=1.6, music=1.6, winter=1.6, heist=-1.6, court=-1.6, war=-1.6, western=-1.6)
SOURCE_FASHION = _shifts(**FASHION)
TARGET_FASHION = _shifts(**FASHION | dict(music=-1.6, western=1.6))
DOMAINS = {
    "netflix": Domain("netflix", "source", "movie", False, SOURCE_FASHION, level=0.2),
    "movie": Domain("movie", "target", "movie", True, TARGET_FASHION, level=-0.1),
    "amazon-book": Domain("amazon-book", "source", "book", False, SOURCE_FASHION, level=0.2),
    "book": Domain("book", "target", "book", False, TARGET_FASHION, level=-0.1),
}


def themes_in(text):
    """The themes named in a text, in the order of their first word."""
    words = text.replace(",", " ").replace(":", " ").split()
    return list(dict.fromkeys(_THEME_OF_WORD[word] for word in words if word in _THEME_OF_WORD))


def theme_of(title):
    """The theme of a fictional title, told by its words, or None where no word has a theme."""
    return next(iter(themes_in(title)), None)


def authors_of(corner, theme):
    """The invented authors of a corner of the world who write about a theme."""
    surnames, start = _SURNAMES[corner], THEME_NAMES.index(theme)
    return [
        f"{_FORENAMES[(5 * start + 3 * i) % len(_FORENAMES)]} {surnames[(start + 4 * i) % len(surnames)]}"
        for i in range(AUTHORS_PER_THEME)
    ]


def make_item(rng, theme, corner, kind="movie", article_last=False):
    """Draw an item of a theme. Films carry a year of their corner, books an author of their corner and theme."""
    words = THEMES[theme]
    word, neutral = words[rng.integers(len(words))], NEUTRAL[rng.integers(len(NEUTRAL))]
    form = rng.integers(6)
    if form == 0:
        article, title = "The", f"{neutral} {word}"
    elif form == 1:
        article, title = "A", f"{neutral} {word}"
    elif form == 2:
        article, title = "", f"{word} {TAILS[rng.integers(len(TAILS))]}"
    elif form == 3:
        article, title = "", f"{word} and {words[(words.index(word) + 1 + rng.integers(len(words) - 1)) % len(words)]}"
    elif form == 4:
        article, title = "The", word
    else:
        article, title = "", f"{neutral} {word}"
    if article == "A" and title[0] in "AEIOU":
        article = "An"
    if article:
        title = f"{title}, {article}" if article_last else f"{article} {title}"
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
            items[make_item(rng, theme, domain.corner, domain.kind, domain.article_last)] = None
        catalogue[theme] = list(items)
    return catalogue


@dataclass(frozen=True)
class User:
    """`followed`: indices of the themes their items come from; `taste`: log-odds per theme, shape (themes,)."""

    followed: np.ndarray
    taste: np.ndarray
    generosity: float

    def like_probability(self, theme, popularity):
        """P(like) for an item of the theme with that index, in a domain with that popularity per theme."""
        return float(_sigmoid(self.generosity + self.taste[theme] + popularity[theme]))


def make_user(rng, level=0.0, taste=TASTE, generosity_sd=GENEROSITY_SD, followed=FOLLOWED_THEMES):
    """Draw a user: tastes are independent of which themes the user follows."""
    return User(
        followed=rng.permutation(len(THEME_NAMES))[:followed],
        taste=taste * rng.choice(list(TASTE_SHARES), p=list(TASTE_SHARES.values()), size=len(THEME_NAMES)),
        generosity=level + generosity_sd * rng.standard_normal(),
    )


def like_posterior(history, target_theme, domain):
    """P(target liked | history): the best score any reader of the record can give.

    `history` is a list of (theme index, liked). Tastes are summed out theme by theme, generosity over a grid.
    """
    z = np.linspace(-4, 4, 81)
    generosity = domain.level + GENEROSITY_SD * z
    log_weight = -0.5 * z**2
    by_theme = {target_theme: []}
    for theme, liked in history:
        by_theme.setdefault(theme, []).append(1.0 if liked else -1.0)
    for theme, signs in by_theme.items():
        total, total_liked = np.zeros_like(z), np.zeros_like(z)
        for taste, share in TASTE_SHARES.items():
            log_odds = generosity + TASTE * taste + domain.popularity[theme]
            likelihood = share * np.prod([_sigmoid(sign * log_odds) for sign in signs], axis=0)
            total += likelihood
            total_liked += likelihood * _sigmoid(log_odds)
        log_weight = log_weight + np.log(total)
        if theme == target_theme:
            target_liked = total_liked / total
    weight = np.exp(log_weight - log_weight.max())
    return float((weight * target_liked).sum() / weight.sum())


@dataclass(frozen=True)
class Example:
    """A record's content with its ground truth: the label, the user's true P(like), and the best reachable score."""

    preference: Preference
    liked: bool
    true_probability: float
    posterior: float


def make_examples(rng, domain, catalogue, count, windows_per_user=5, history=10):
    """Draw `count` examples: sliding windows of `history` items over fresh users, the next item as the target.

    Books have shorter histories now and then, as in the published book data. No item occurs twice in a window.
    """
    examples = []
    while len(examples) < count:
        user = make_user(rng, domain.level)
        seen, items = [], set()
        while len(seen) < history + windows_per_user:
            theme = int(rng.choice(user.followed))
            pool = catalogue[THEME_NAMES[theme]]
            item = pool[rng.integers(len(pool))]
            if item not in items:
                items.add(item)
                probability = user.like_probability(theme, domain.popularity)
                seen.append((item, theme, bool(rng.random() < probability), probability))
        for end in range(history, history + windows_per_user):
            length = int(rng.integers(2, history + 1)) if domain.kind == "book" else history
            window, (target, theme, liked, probability) = seen[end - length : end], seen[end]
            examples.append(
                Example(
                    Preference(
                        likes=tuple(item for item, _, like, _ in window if like),
                        dislikes=tuple(item for item, _, like, _ in window if not like),
                        target=target,
                        kind=domain.kind,
                    ),
                    liked,
                    probability,
                    like_posterior([(theme, like) for _, theme, like, _ in window], theme, domain),
                )
            )
    return examples[:count]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))
