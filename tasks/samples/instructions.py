"""Seeded generator of short synthetic conversations: questions about words that a small model can learn to answer.

    [{"role": "user", "content": "Which word comes last: red, moon, cat?"}, {"role": "assistant", "content": "cat"}]

It stands in for an instruction set where the Hub is out of reach, and is announced as synthetic. Conversation i is a
function of (seed, i). A third of them have two questions.
"""

from __future__ import annotations

from random import Random

KINDS = {
    "animal": "cat dog horse bird fish mouse",
    "colour": "red blue green black white silver",
    "food": "bread apple salt soup milk tea",
    "person": "king queen child baker nurse pilot",
}
OTHERS = "moon star sun rain snow wind tree leaf stone river hill sea door chair lamp book key ring"
WORDS = [word for words in (*KINDS.values(), OTHERS) for word in words.split()]
NUMBERS = ("one", "two", "three", "four", "five")
OPPOSITES = {"hot": "cold", "big": "small", "old": "new", "dark": "light", "fast": "slow", "early": "late", "open": "closed",
             "full": "empty", "loud": "quiet", "high": "low"}  # fmt: skip


def question(rng: Random) -> tuple[str, str]:
    """A question and its answer."""
    some = rng.sample(WORDS, rng.randint(2, 5))
    shown = ", ".join(some)
    kind, plain = rng.choice(list(KINDS)), rng.choice(list(OPPOSITES))
    return rng.choice([
        (f"Which word comes last: {shown}?", some[-1]),
        (f"Which word comes first: {shown}?", some[0]),
        (f"Say these words backwards: {shown}.", ", ".join(reversed(some))),
        (f"Say these words again: {shown}.", shown),
        (f"How many words are these: {shown}?", NUMBERS[len(some) - 1]),
        (f"Which word follows {some[0]} in: {shown}?", some[1]),
        (f"What is the opposite of {plain}?", OPPOSITES[plain]),
        (f"What kind of thing is {rng.choice(KINDS[kind].split())}?", f"{'an' if kind == 'animal' else 'a'} {kind}"),
    ])  # fmt: skip


def conversations(number: int, seed: int) -> list[list[dict[str, str]]]:
    """As many conversations as asked for, as lists of messages."""
    found = []
    for i in range(number):
        rng = Random(f"{seed} {i}")
        messages: list[dict[str, str]] = []
        for _ in range(1 if rng.random() < 2 / 3 else 2):
            asked, answer = question(rng)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        found.append(messages)
    return found
