"""From a text to rows of tokens, and from the probabilities of its words to what is found in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from engine.data.tables import plain_row
from engine.data.tokens import left_as_found
from engine.errors import DataError
from engine.task import Row
from tasks.tagging.tags import things
from tasks.tagging.words import Encoded, cuts

BATCH = 32  # texts at a time


@dataclass
class Text:
    """One input. ``spans``: first character of each word, and the one behind its last; of a list of words there are none."""

    text: str
    words: list[str]
    is_list: bool
    spans: list[tuple[int, int]] = field(default_factory=list)
    num_words: int = 0  # that have a token
    numbers: list[int] = field(default_factory=list)  # of those, in ``words``

    @classmethod
    def of(cls, item: Any, number: int) -> Text:
        """Raises DataError for anything but a text or a list of texts."""
        if isinstance(item, str):
            return cls(item, [], is_list=False)
        if isinstance(item, list | tuple) and all(isinstance(word, str) for word in item):
            return cls("", list(item), is_list=True)
        raise DataError(f"the input, {plain_row(number - 1)}: a text or a list of words is needed, found {item!r:.60}")


def batches_of(texts: Sequence[Text], tokenizer: Any, max_length: int) -> Iterator[tuple[list[Text], list[Row]]]:
    """Texts with the rows of tokens that hold all their words; labels are 0 at the first token of a word, -100 elsewhere."""
    for start in range(0, len(texts), BATCH):
        some, encoded = list(texts[start : start + BATCH]), Encoded()
        with left_as_found(tokenizer):
            for text in some:
                add_words(text, encoded, tokenizer, max_length) if text.is_list else add_text(
                    text, encoded, tokenizer, max_length
                )
        rows: list[Row] = [{"input_ids": ids} for ids in encoded.ids]
        for row, words in zip(rows, encoded.words, strict=True):
            row["labels"] = np.where(words >= 0, 0, -100)
        for row, types in zip(rows, encoded.types, strict=False):
            row["token_type_ids"] = types
        yield some, [row for row in rows if (row["labels"] == 0).any()]  # blank texts have no row


def add_words(text: Text, encoded: Encoded, tokenizer: Any, max_length: int) -> None:
    """The rows of a list of words."""
    encoding = tokenizer([text.words], is_split_into_words=True, verbose=False)
    first = len(encoded.words)
    for a, b in cuts(encoding.word_ids(0), len(text.words), max_length):
        piece = tokenizer([text.words[a:b]], is_split_into_words=True, truncation=True, max_length=max_length)
        encoded.add(piece, 0, 0, a)
    text.numbers = [int(word) for row in encoded.words[first:] for word in row[row >= 0]]
    text.num_words = len(text.numbers)


def add_text(text: Text, encoded: Encoded, tokenizer: Any, max_length: int) -> None:
    """The rows of a text as it stands, cut between words where it is longer than the model takes."""
    whole = tokenizer([text.text], return_offsets_mapping=True, verbose=False)
    word_ids, text.spans = words_in(text.text, whole)
    text.words = [text.text[start:stop] for start, stop in text.spans]
    first = len(encoded.words)
    if len(word_ids) <= max_length:
        encoded.add(whole, 0, 0, 0, word_ids)
    elif text.spans:
        for a, b in cuts(with_blanks(word_ids, whole.word_ids(0)), len(text.spans), max_length):
            part = text.text[text.spans[a][0] : text.spans[b - 1][1]]
            piece = tokenizer([part], return_offsets_mapping=True, truncation=True, max_length=max_length)
            encoded.add(piece, 0, 0, a, words_in(part, piece)[0])
    text.numbers = [int(word) for row in encoded.words[first:] for word in row[row >= 0]]
    text.num_words = len(text.numbers)


def words_in(text: str, encoding: Any) -> tuple[list[int | None], list[tuple[int, int]]]:
    """The word of each token, and of each word its first character and the one behind its last.

    Some tokenizers count the blank in front of a word to it, or take blanks for words: they are of none here.
    """
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, stop) in zip(encoding.word_ids(0), encoding["offset_mapping"][0], strict=True):
        if word is not None:
            spans[word] = (spans.get(word, (start, stop))[0], stop)
    seen = {}
    for word, (start, stop) in sorted(spans.items()):
        if visible := text[start:stop].strip():
            at = start + text[start:stop].index(visible)
            seen[word] = at, at + len(visible)
    numbers = {word: number for number, word in enumerate(seen)}
    return [None if word is None else numbers.get(word) for word in encoding.word_ids(0)], list(seen.values())


def with_blanks(word_ids: Sequence[int | None], own: Sequence[int | None]) -> list[int | None]:
    """The word of each token, that of a blank being the word behind it. ``own``: the tokenizer's, None for special tokens."""
    found: list[int | None] = []
    behind = max(word for word in word_ids if word is not None)
    for word, its in zip(reversed(word_ids), reversed(own), strict=True):
        behind = behind if word is None else word
        found.append(None if its is None else behind)
    return found[::-1]


def prediction(text: Text, p: Tensor, names: Sequence[str], kinds: Sequence[str] | None) -> dict[str, Any]:
    """``p``: [words, L], the probabilities at each word that has a token; a word that has none is in no name."""
    scores, best = p.max(-1)
    outside = "O" if "O" in names else names[0]
    tags, sure = [outside] * len(text.words), [0.0] * len(text.words)
    for word, tag, score in zip(text.numbers, best.tolist(), scores.tolist(), strict=True):
        tags[word], sure[word] = names[tag], score
    if kinds is None or text.is_list:
        return {"words": text.words, "tags": tags, "scores": sure}
    found = []
    for kind, first, last in things(tags):
        start, stop = text.spans[first][0], text.spans[last][1]
        score = sum(sure[first : last + 1]) / (last + 1 - first)
        found.append({"label": kind, "text": text.text[start:stop], "start": start, "end": stop, "score": score})
    return {"entities": found}
