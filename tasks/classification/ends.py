"""End tokens where a head counts them: BART's reads the vector of a text's last, so all rows of a batch have equally many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.data.collate import Layout
from engine.data.plan import eval_batches
from engine.data.tables import RowName
from engine.data.tokens import Tokens
from engine.errors import DataError, ModelError

ROWS = 32  # predicted at a time


def ends_in(tokens: Tokens, end: int) -> np.ndarray:
    """[N]: the end tokens in each row."""
    return np.add.reduceat(np.asarray(tokens.ids) == end, tokens.offsets[:-1], dtype=np.int64)


def refuse_ends(tokens: Tokens, tokenizer: Any, end: int, model: str, where: str, row: RowName, *, of_pairs: bool) -> None:
    """Raises DataError for a row whose text holds an end token, ModelError where the tokenizer puts none behind a text.

    ``of_pairs``: the rows are pairs of texts; ``model``: whose they are, and ``row``: what a row is called, for errors.
    """
    usual = tokenizer("a", "a" if of_pairs else None)["input_ids"].count(end)
    name = tokenizer.convert_ids_to_tokens(end)
    if not usual:
        raise ModelError(
            f"model {model} reads the vector of the end token {name!r}, and its tokenizer puts none behind a text: take "
            "the tokenizer that belongs to it, or another model"
        )
    if len(odd := np.flatnonzero(ends_in(tokens, end) != usual)):
        raise DataError(
            f"{where}, {row(int(odd[0]))}: the text holds {name!r}, the model's end token, and its head takes no batch in "
            "which a text has more of them than another: remove it from the text"
        )


def alike(lengths: np.ndarray, ends: np.ndarray, layout: Layout) -> Iterator[list[int]]:
    """The rows in batches, longest first; in each as many end tokens, and rows of one length where padding matters."""
    for number in np.unique(ends):
        group = np.flatnonzero(ends == number)
        for batch in eval_batches(lengths[group], ROWS, same_length=layout.padding_matters):
            yield [int(group[i]) for _, i in batch]
