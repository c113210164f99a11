"""Texts that stand in the data twice: the same ones, and those that nearly are.

Near duplicates are found by MinHash and locality-sensitive hashing (Broder, 1997; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3), in datasketch; each pair that it proposes is then compared exactly, so that none is claimed
that is not one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.console import note
from engine.errors import UsageError
from engine.installed import install

WORD = re.compile(r"\w+")
SIZE = 3  # words of a shingle
SLACK = 0.15  # below the similarity asked for, at which pairs are proposed: hashing misses some that lie at its own limit
NUM_HASHES = 128
CHUNK = 1000  # texts hashed at a time


@dataclass(frozen=True)
class Pair:
    """Two texts by their places: ``row`` is nearly ``earlier``. ``similarity``: Jaccard's, of their word triples."""

    row: int
    earlier: int
    similarity: float


def normal(text: str) -> str:
    """What is compared where texts are called the same: without capitals, with single spaces."""
    return " ".join(text.casefold().split())


def first_of_each(texts: Sequence[str]) -> list[int]:
    """For each text the place of the first that is the same; a blank one is only its own."""
    first: dict[str, int] = {}
    return [first.setdefault(key, row) if (key := normal(text)) else row for row, text in enumerate(texts)]


def shingles(text: str) -> frozenset[str]:
    """Its word triples, in small letters; of fewer words the words."""
    words = WORD.findall(text.casefold())
    if len(words) <= SIZE:
        return frozenset(words)
    return frozenset(" ".join(words[i : i + SIZE]) for i in range(len(words) - SIZE + 1))


def near(texts: Sequence[str], groups: Sequence[str], least: float) -> list[Pair]:
    """For each text, and each group of texts, the most similar earlier text of that group, if it is at least so similar.

    Texts that are the same as an earlier one are left out: they are none that nearly are. Raises UsageError without datasketch.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError as error:
        raise UsageError(
            f"near duplicates are found by datasketch, which is not installed: {install('inspect')} (--near 0 leaves them out)"
        ) from error
    index: Any = MinHashLSH(threshold=max(least - SLACK, 0.1), num_perm=NUM_HASHES)
    sets: dict[int, frozenset[str]] = {}
    pairs: list[Pair] = []
    for row, found, hashed in hashes(texts, MinHash):
        best: dict[str, Pair] = {}
        for earlier in sorted(index.query(hashed)):
            similarity = len(found & sets[earlier]) / len(found | sets[earlier])
            known = best.get(groups[earlier])
            if similarity >= least and (known is None or similarity > known.similarity):
                best[groups[earlier]] = Pair(row, earlier, similarity)
        pairs += best.values()
        index.insert(row, hashed, check_duplication=False)
        sets[row] = found
    return pairs


def hashes(texts: Sequence[str], kind: Any) -> Iterator[tuple[int, frozenset[str], Any]]:
    """Of each text that is not the same as an earlier one, and has a word: its place, its shingles, and their MinHash."""
    rows = [row for row, first in enumerate(first_of_each(texts)) if row == first]
    if len(rows) > 20 * CHUNK:
        note(f"near duplicates: {len(rows):,} texts are compared; --near 0 leaves this out")
    for start in range(0, len(rows), CHUNK):
        some = [(row, found) for row in rows[start : start + CHUNK] if (found := shingles(texts[row]))]
        made = kind.bulk([[shingle.encode() for shingle in sorted(found)] for _, found in some], num_perm=NUM_HASHES)
        for (row, found), hashed in zip(some, made, strict=True):
            yield row, found, hashed
