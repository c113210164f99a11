"""Seeded generator of preferences: the questions of instructions.py, each with its answer and with one that is not right.

    Which word comes last: red, moon, cat?      cat      rather than      moon

It stands in for answers that people have compared where the Hub is out of reach, and is announced as synthetic. A wrong answer
is of the same kind as the right one: another word of the question, or the words in another order. Row i is a function of
(seed, i).
"""

from __future__ import annotations

from random import Random
from typing import Any

from tasks.samples.instructions import KINDS, NUMBERS, OPPOSITES, question


def wrong(asked: str, answer: str, rng: Random) -> str:
    """An answer that is not right."""
    kinds = [f"{'an' if kind == 'animal' else 'a'} {kind}" for kind in KINDS]
    same_kind = next((some for some in (kinds, list(NUMBERS), list(OPPOSITES.values())) if answer in some), None)
    if same_kind is None:
        words = asked.rstrip("?.").split(": ")[-1].split(", ")
        if "," in answer:  # all of them in another order
            orders = [words, words[::-1], [*words[1:], words[0]], [words[-1], *words[:-1]]]
            return rng.choice([text for order in orders if (text := ", ".join(order)) != answer])
        same_kind = words
    return rng.choice([other for other in same_kind if other != answer])


def preferences(number: int, seed: int) -> list[dict[str, Any]]:
    """As many rows as asked for: two conversations each, ``chosen`` and ``rejected``."""
    found = []
    for i in range(number):
        rng = Random(f"{seed} {i}")
        asked, answer = question(rng)
        start = [{"role": "user", "content": asked}]
        answers = {"chosen": answer, "rejected": wrong(asked, answer, rng)}
        found.append({name: [*start, {"role": "assistant", "content": text}] for name, text in answers.items()})
    return found
