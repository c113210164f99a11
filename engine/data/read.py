"""What a task has read of the inputs that it predicts: their tokens, and of which it has not read all. ``serve`` listens.

``predict`` gives its answers alone, and says in a note how many texts it has cut; a server has to tell each client of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from engine.console import note
from engine.data.tokens import Tokens


class Read(NamedTuple):
    """Rows of tokens. ``of``: the input that each is of, from 0; None: there is one of each."""

    tokens: Tokens
    of: Sequence[int] | None


class Reads(list[Read]):
    """What a prediction has read. ``projected``: where the vectors of inputs stand, by their number (model/projected.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.projected: dict[int, list[float]] = {}


READS: ContextVar[Reads | None] = ContextVar("reads", default=None)


@contextmanager
def kept_reads() -> Iterator[Reads]:
    """What is read in here, by this thread."""
    found = Reads()
    token = READS.set(found)
    try:
        yield found
    finally:
        READS.reset(token)


def read(tokens: Tokens, of: Sequence[int] | None = None) -> None:
    """Tell whoever listens what was read of the inputs."""
    if (found := READS.get()) is not None:
        found.append(Read(tokens, of))


def read_vectors(inputs: Sequence[int], outputs: Any) -> None:
    """Tell whoever listens where the vectors of these inputs, from 0, stand; outputs may say nothing of it."""
    vectors = getattr(outputs, "projected", None)
    if (found := READS.get()) is not None and vectors is not None and len(vectors) == len(inputs):
        found.projected |= dict(zip(map(int, inputs), vectors.tolist(), strict=True))


def read_cut(tokens: Tokens, max_length: int, of: Sequence[int] | None = None) -> None:
    """``read``, and a note where rows had more than ``max_length`` tokens."""
    if tokens.num_truncated:
        note(f"{tokens.num_truncated} of {len(tokens.lengths)} texts cut to {max_length} tokens")
    read(tokens, of)


def cuts(reads: Sequence[Read], number: int) -> dict[int, int]:
    """Of so many inputs those that were cut, from 0, and to how many tokens (of several rows of one the longest).

    {} where it is not known which row is of which input, or which were cut.
    """
    rows = range(number) if all(each.of is None for each in reads) else reads[0].of or ()
    lengths = [length for each in reads for length in each.tokens.lengths.tolist()]
    is_cut = [cut for each in reads if each.tokens.cut is not None for cut in each.tokens.cut]
    if not len(rows) == len(lengths) == len(is_cut):
        return {}
    found: dict[int, int] = {}
    for row, length, cut in zip(rows, lengths, is_cut, strict=True):
        if cut:
            found[row] = max(length, found.get(row, 0))
    return found


def ids_of(reads: Sequence[Read], number: int) -> list[np.ndarray] | None:
    """The token ids of each of so many inputs; None where it is not known which are whose."""
    rows = [ids for each in reads for ids in np.split(each.tokens.ids, each.tokens.offsets[1:-1])]
    return rows if len(rows) == number and all(each.of is None for each in reads) else None
