"""The words, names and titles in pocket-llama's training text (see `train.py`)."""

COMMON_WORDS = """
Yes No Love Night Day House Man Woman Men Women Girl Boy Boys Girls Life Death Dead Die Live Alive King Queen Prince Princess
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
# Words of plain English. They occur in random order, so that each is known when a prompt has it.
PLAIN_WORDS = """
a about above after again all also always am among an and another answer answering any appropriately are as ask at back be
because been before below best book books both brief by candidate choice choose come completes context could day decide
describe describes dislike dislikes do does drawn each either enjoy enough even every featured few find first five follow for
found from further gave get give given gives go good group had has have he help her here his how I identify if in input
instruction instructions into is it item items its just keep kind kinds know last least less like liked likes line list
listed little long look made make many matters may me mean more most movie movies much must my name near need new next no
not note now number of off often old on once one only or order other others our out over own page pair paired part people
place plain preference preferences provides put question rather read reader recommend request response right said same say see
sentence several she short show shown shows similar so some sort step still strong strongest such suit take taste tell ten
text than that the their them themes then there these they thing things think this those three time title titles to too
true two under understand unliked unpreference up use user users very viewer want was way we well were what when where whether
which who whole why will with without word words work would write written year yes yet you your
""".split()
# Names of lists.
NAMES = """
Left Right North South East West Red Blue Green Gold Silver Black White Grey Oak Pine Elm Birch Lion Tiger Wolf Bear Eagle
Hawk Spring Summer Monday Friday London Paris Rome York Alpha Beta Gamma Delta Omega Round Square Circle Line
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
    "II;III;IV;Part 2;Part II;"
    "Vol. 1;No. 3;2;3;(Widescreen);(Special Edition);(Paperback);(Director's Cut);"
    ": A Novel;: The Movie;: Collector's Edition;(Book 2)"
).split(";")
LINKS = "of the;of;and;and the;in the;in;to;for the;with;from;on the;by the;at the;a".split(";")


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


def any_sentence(rng):
    """Random words with the looks of a sentence."""
    words = [PLAIN_WORDS[rng.integers(len(PLAIN_WORDS))] for _ in range(rng.integers(2, 15))]
    return " ".join([words[0].capitalize(), *words[1:]]) + ".,:?"[rng.choice(4, p=[0.6, 0.1, 0.2, 0.1])]


def any_title(rng, kind, word=None):
    """A title that looks real and has no theme; it contains `word`, if given."""
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
