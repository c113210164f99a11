"""Seeded generator of questions, each with sentences of which one answers it: for where no data for a reranker can be had.

    Where does Olga Kelton live?      Olga Kelton moved to Norbury last spring.      (the one that answers)
                                      Olga Kelton keeps a goat.     Ravi Ashley now lives in Kelsey.     ...

Of the others a third is of the same person, a third says the same of another person, and a third is of neither: so neither the
name nor the kind of fact is enough. The facts are those of passages.py. Row i is a function of (seed, i).
"""

from __future__ import annotations

from random import Random
from typing import Any

from tasks.samples.entities import FIRST, HEADS, OF_PEOPLE, one_of
from tasks.samples.passages import FACTS, value_of


def sentence(person: str, kind: str, rng: Random) -> str:
    """One that says a fact of a person."""
    text = rng.choice(FACTS[kind][0]).replace("{p}", person).replace("{v}", value_of(kind, rng))
    return text[0].upper() + text[1:]


def question(seed: int, row: int, others: int) -> dict[str, Any]:
    """``{"query", "positive", "negative": [sentences]}``; ``others``: of each sort."""
    rng = Random(f"{seed} {row}")
    person, *people = (
        f"{first} {one_of(HEADS, rng)}{one_of(OF_PEOPLE, rng)}" for first in rng.sample(FIRST.split(), 1 + 2 * others)
    )
    kind, *kinds = rng.sample(sorted(FACTS), 1 + others)
    wrong = [(person, each) for each in kinds] + [(each, kind) for each in people[:others]]
    wrong += zip(people[others:], kinds, strict=True)
    return {
        "query": rng.choice(FACTS[kind][1]).replace("{p}", person),
        "positive": sentence(person, kind, rng),
        "negative": [sentence(*each, rng) for each in rng.sample(wrong, len(wrong))],
    }


def questions(number: int, seed: int, others: int) -> list[dict[str, Any]]:
    """As many rows as asked for."""
    return [question(seed, row, others) for row in range(number)]
