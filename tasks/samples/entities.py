"""Seeded generator of sentences with names in them: people, places and organisations.

    Maria Dalton flew from Norbury to Kelsey .        B-person I-person O O B-location O B-location O

It stands in for a set of named entities where the Hub is out of reach, and is announced as synthetic. It is made to be hard, as
names are: put together from syllables, so that most of the held-out ones never stood in the training data; one name may be a
person, a place or a firm, and what is around it has to be read, which does not always tell (Kelsey is in the news again);
some names are words (May, Reading, a baker and Baker & Sons); and a quarter of the sentences has no capitals. So nobody, and no
model, finds all of them. Sentence i is a function of (seed, i).
"""

from __future__ import annotations

from random import Random

FIRST = (
    "Maria James Olga Peter Amina Ravi Clara Tom Ines Jack Yuki Daniel Rosa Erik Leila "
    "Hugo Nina Paul Dana Igor Mei Karl Ada Luis Tara Omar Vera Sam Ruth Felix May Mark Rose Grace Hope Will Bill Frank"
)
WORDS = "Reading Bath Nice Hull Mobile Orange Sandwich Cork"  # places
TRADES = "Baker Carter Mason Fisher Cook Porter Taylor Potter"  # surnames, and occupations
HEADS = "Dal Hart Nor Kel Wes Bran Mar Thorn Ash Lin Har Stan Col Rad Fen Gar Hol Pem Sel Tor Wil Ald Bex Cran"
MIDDLES = "er in a o el an"
OF_PEOPLE = "ton well man ford ley more son field by wick"
OF_PLACES = "bury sey ham port dale mouth ville burg haven stead"
ANY = f"{OF_PEOPLE} {OF_PLACES}"
OF_FIRMS = (("Bank",), ("&", "Sons"), ("Group",), ("Airlines",), ("Motors",), ("University",), ("Press",), ("Foods",))

PATTERNS = """
{P} flew from {L} to {L} on Monday .
{P} works for {O} in {L} .
{O} opened an office in {L} last year .
Last night {P} met {P} at the old harbour .
The mayor of {L} , {P} , thanked {O} for its help .
{O} has bought {O} for two million .
" We will stay in {L} , " said {P} .
{P} studied law at {O} before moving to {L} .
Trains between {L} and {L} are late again .
Shares of {O} fell after {P} left .
The road to {L} is closed because of snow .
{P} , a {t} from {L} , won the first prize .
A {t} and a {t} were seen near the river .
The {t} asked for more money than last year .
Nobody knows why the shop was closed on Friday .
Prices rose by three percent in the spring .
She read the letter twice and said nothing .
In {L} the {t} of {P} was asked about {O} .
{A} is in the news again .
What do you think of {A} ?
I had never heard of {A} before .
{A} and {A} have agreed at last .
Everybody talks about {A} and {A} .
{A} has changed a lot in ten years .
You may mark the page with a rose .
Reading in the bath is nice , and so is a sandwich .
They will bill us for the orange paint and the cork .
Be frank , there is no grace in it and little hope .
"""
TEMPLATES = [line.split() for line in PATTERNS.strip().splitlines()]
Named = tuple[list[str], str]  # the words of a name, and its kind


def one_of(words: str, rng: Random) -> str:
    return rng.choice(words.split())


def made(endings: str, rng: Random) -> str:
    """A name of two or three syllables, of which seven in ten have an ending of any kind of name."""
    ending = one_of(ANY if rng.random() < 0.7 else endings, rng)
    return one_of(HEADS, rng) + (one_of(MIDDLES, rng) if rng.random() < 0.5 else "") + ending


def person(rng: Random) -> Named:
    surname = one_of(TRADES, rng) if rng.random() < 0.2 else made(OF_PEOPLE, rng)
    kind = rng.random()
    return ([one_of(FIRST, rng), surname] if kind < 0.6 else [surname if kind < 0.8 else one_of(FIRST, rng)]), "person"


def place(rng: Random) -> Named:
    name = [one_of(WORDS, rng) if rng.random() < 0.15 else made(OF_PLACES, rng)]
    return ([one_of("New North Port", rng), *name] if rng.random() < 0.2 else name), "location"


def firm(rng: Random) -> Named:
    name = one_of(TRADES, rng) if rng.random() < 0.2 else made(ANY, rng)
    return [name, *(rng.choice(OF_FIRMS) if rng.random() < 0.5 else ())], "organisation"


def sentences(number: int, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """The words of as many sentences as asked for, and a tag for each word: B-, I-, O."""
    all_words, all_tags = [], []
    for i in range(number):
        rng = Random(f"{seed} {i}")
        words: list[str] = []
        tags: list[str] = []
        for part in rng.choice(TEMPLATES):
            if part == "{t}":
                some, kind = [one_of(TRADES, rng).lower()], None
            elif part in ("{P}", "{L}", "{O}", "{A}"):
                make = {"{P}": person, "{L}": place, "{O}": firm}.get(part) or rng.choice((person, place, firm))
                some, kind = make(rng)
            else:
                some, kind = [part], None
            words += some
            tags += ["O"] * len(some) if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (len(some) - 1)]
        all_words.append([word.lower() for word in words] if rng.random() < 0.25 else words)
        all_tags.append(tags)
    return all_words, all_tags
