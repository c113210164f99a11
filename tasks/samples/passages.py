"""Seeded generator of short passages about three people, each with a question that a few words of the passage answer.

    Olga Kelton was born in Norbury. She now works for Hartwell Bank in Kelsey, and plays the cello. Ravi Ashley, who ...
    Where was Olga Kelton born?        Norbury

It stands in for SQuAD where the Hub is out of reach, and is announced as synthetic. All facts of one kind stand in a passage
several times, each of another person, in changing order and words, some behind a pronoun: neither the place of an answer nor
its kind is enough, and a question has other words than the passage. Row i is a function of (seed, i).
"""

from __future__ import annotations

from random import Random
from typing import Any

from tasks.samples.entities import FIRST, HEADS, OF_PEOPLE, firm, one_of, place

WOMEN = "Maria Olga Amina Clara Ines Yuki Rosa Leila Nina Dana Mei Ada Tara Vera Ruth"
INSTRUMENTS = "piano violin cello flute guitar trumpet harp drums organ clarinet oboe banjo"
ANIMALS = "cat dog parrot rabbit horse goat tortoise canary hamster donkey"

# kind: how a passage may say it of {p}, a name or a pronoun; and how it may be asked of a name
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birthplace": (
        ("{p} was born in {v}.", "{p} grew up in {v}.", "{v} is where {p} spent the first ten years of life."),
        ("Where was {p} born?", "What is the home town of {p}?", "In which place did {p} grow up?"),
    ),
    "residence": (
        ("{p} now lives in {v}.", "{p} moved to {v} last spring.", "These days {p} has a small house in {v}."),
        ("Where does {p} live?", "Which town is {p} in today?", "Where would one visit {p} now?"),
    ),
    "employer": (
        ("{p} works for {v}.", "{p} was hired by {v} two years ago.", "At {v}, {p} is in charge of the accounts."),
        ("Who employs {p}?", "Which company pays {p}?", "What is the firm of {p} called?"),
    ),
    "year": (
        ("{p} married in {v}.", "The wedding of {p} was in {v}.", "It was in {v} that {p} married."),
        ("When did {p} marry?", "In which year did {p} get married?"),
    ),
    "instrument": (
        ("{p} plays the {v}.", "On Sundays {p} practises the {v}.", "{p} has given concerts on the {v}."),
        ("Which instrument does {p} play?", "What does {p} make music with?"),
    ),
    "animal": (
        ("{p} keeps a {v}.", "{p} has bought a {v}.", "{p} shares a garden with a {v}."),
        ("Which animal does {p} own?", "What pet does {p} have?"),
    ),
}  # fmt: skip
PEOPLE, KINDS = 3, 2  # in a passage: people, and facts of each


def value_of(kind: str, rng: Random) -> str:
    """What fills in a fact."""
    if kind in ("birthplace", "residence"):
        return " ".join(place(rng)[0])
    if kind == "employer":
        return " ".join(firm(rng)[0])
    return str(rng.randint(1950, 2020)) if kind == "year" else one_of(INSTRUMENTS if kind == "instrument" else ANIMALS, rng)


def with_values(number: int, kind: str, rng: Random) -> list[str]:
    """As many as asked for, no two alike."""
    found: list[str] = []
    while len(found) < number:
        if (value := value_of(kind, rng)) not in found:
            found.append(value)
    return found


def question(seed: int, row: int) -> dict[str, Any]:
    """One row, as SQuAD has it."""
    rng = Random(f"{seed} {row}")
    firsts = rng.sample(FIRST.split(), PEOPLE)
    people = [f"{first} {one_of(HEADS, rng)}{one_of(OF_PEOPLE, rng)}" for first in firsts]
    kinds = rng.sample(sorted(FACTS), KINDS)
    values = {kind: with_values(PEOPLE, kind, rng) for kind in kinds}
    about, asked = rng.randrange(PEOPLE), rng.choice(kinds)
    text, start = "", 0
    for person in rng.sample(range(PEOPLE), PEOPLE):
        for i, kind in enumerate(rng.sample(kinds, KINDS)):
            pattern = rng.choice(FACTS[kind][0])
            pronoun = "she" if firsts[person] in WOMEN.split() else "he"
            name = people[person] if i == 0 or "of {p}" in pattern or rng.random() < 0.3 else pronoun
            before, behind = pattern.replace("{p}", name).split("{v}")
            sentence = before + values[kind][person] + behind
            if (person, kind) == (about, asked):
                start = len(text) + len(before)
            text += sentence[0].upper() + sentence[1:] + " "
    answer = values[asked][about]
    return {
        "id": f"{seed}-{row}",
        "question": rng.choice(FACTS[asked][1]).replace("{p}", people[about]),
        "context": text.strip(),
        "answers": {"text": [answer], "answer_start": [start]},
    }


def questions(number: int, seed: int) -> list[dict[str, Any]]:
    """As many rows as asked for."""
    return [question(seed, row) for row in range(number)]
