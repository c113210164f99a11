"""Seeded generator of sentences to rewrite: who did what, as what was done by whom.

    She has painted two old chairs in the kitchen.         Two old chairs have been painted in the kitchen by her.
    Ravi did not find the letter on Monday, and I hid it.  On Monday the letter was not found by Ravi, and it was hidden by me.

It stands in for a set of texts to rewrite where the Hub is out of reach, and is announced as synthetic. What is right follows
from the sentence alone: what the verb is has to change with its tense and with whether one or several things are spoken of,
pronouns change, the time comes first, and everything else is copied to another place. Row i is a function of (seed, i).
"""

from __future__ import annotations

from random import Random

from tasks.samples.entities import FIRST, one_of

# base, past, participle
VERBS = """
find found found,take took taken,bring brought brought,break broke broken,sell sold sold,steal stole stolen,hide hid hidden
forget forgot forgotten,draw drew drawn,buy bought bought,paint painted painted,clean cleaned cleaned,repair repaired repaired
move moved moved,wash washed washed,lose lost lost,show showed shown,choose chose chosen,carry carried carried,keep kept kept
""".strip().replace("\n", ",").split(",")  # fmt: skip
THINGS = "chair lamp letter boat clock coat picture basket bottle key ring cup table mirror map drum bag box hat book"
ADJECTIVES = "red old small green heavy new broken blue wooden round expensive empty"
AGES = "old young tall new small"
WHO = "baker teacher nurse sailor farmer king child neighbour doctor painter"
PRONOUNS = {"she": "her", "he": "him", "they": "them", "I": "me", "we": "us", "you": "you"}
PLACES = "in the kitchen,in the garden,at the station,near the river,behind the church,on the stairs,at school,in Norbury"
OVER = "on Monday,last night,in the spring,after lunch,two years ago,at ten"  # times of what is over
TO_COME = "on Monday,tomorrow,in the spring,after lunch,next week,at ten"
NUMBERS = "two three four five some many"


def thing(rng: Random) -> tuple[str, bool]:
    """Something, and whether it is several."""
    several = rng.random() < 0.4
    noun = one_of(THINGS, rng)
    nouns = noun + ("es" if noun.endswith("x") else "s")
    like = f"{one_of(ADJECTIVES, rng)} " if rng.random() < 0.5 else ""
    return f"{one_of(NUMBERS, rng)} {like}{nouns}" if several else f"{rng.choice(('the', 'this', 'her'))} {like}{noun}", several


def somebody(rng: Random) -> tuple[str, str, bool]:
    """Somebody who does something, the same by whom it is done, and whether one says "has" of them."""
    kind = rng.random()
    if kind < 0.3:
        name = rng.choice(sorted(PRONOUNS))
        return name, PRONOUNS[name], name in ("she", "he")
    like = f"{one_of(AGES, rng)} " if rng.random() < 0.3 else ""
    name = one_of(FIRST, rng) if kind < 0.65 else f"the {like}{one_of(WHO, rng)}"
    return name, name, True


def clause(rng: Random) -> tuple[str, str]:
    """A sentence without its capital and its full stop, and the same the other way round."""
    (who, by_whom, says_has), (what, several) = somebody(rng), thing(rng)
    base, past, participle = rng.choice(VERBS).split()
    was, has = ("were", "have") if several else ("was", "has")
    said, done, times = rng.choice([
        (past, f"{was} {participle}", OVER),
        (f"did not {base}", f"{was} not {participle}", OVER),
        (f"{'has' if says_has else 'have'} {participle}", f"{has} been {participle}", ""),
        (f"will {base}", f"will be {participle}", TO_COME),
        (f"must not {base}", f"must not be {participle}", TO_COME),
    ])  # fmt: skip
    place = f" {rng.choice(PLACES.split(','))}" if rng.random() < 0.5 else ""
    time = rng.choice(times.split(",")) if times and rng.random() < 0.5 else ""
    return f"{who} {said} {what}{place} {time}".strip(), f"{time} {what} {done}{place} by {by_whom}".strip()


def sentence(seed: int, row: int) -> dict[str, str]:
    """One row: the sentence, and the same rewritten. A third of them have two parts."""
    rng = Random(f"{seed} {row}")
    parts = [clause(rng) for _ in range(1 if rng.random() < 2 / 3 else 2)]
    source, target = (capital(", and ".join(some)) for some in zip(*parts, strict=True))
    return {"source": source, "target": target}


def capital(text: str) -> str:
    """With a capital and a full stop."""
    return text[0].upper() + text[1:] + "."


def sentences(number: int, seed: int) -> list[dict[str, str]]:
    """As many rows as asked for."""
    return [sentence(seed, row) for row in range(number)]
