"""From rows of data to words with their tags, and from words to tokens.

A row is a list of words beside a list of tags, or a text beside the spans that are marked in it. Next: task.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.checked import is_a
from engine.console import note
from engine.data.tables import RowName, names_of_rows
from engine.data.tokens import CHUNK_ROWS, Tokens, cells_of, left_as_found
from engine.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

Tagged = tuple[list[str], list[str]]  # the words of a sentence, and a tag for each
WORD = re.compile(r"\w+|[^\w\s]")
LETTERS = re.compile(r"[0-9A-Za-z\u00c0-\u052f]{2}")  # two of Latin, Greek or Cyrillic


def tagged_words(table: Dataset, text_column: str, label_column: str, where: str, names: Sequence[str] | None) -> list[Tagged]:
    """The sentences of a table. ``names``: of tags that are numbers. Raises DataError with the row."""
    row, found, cut = names_of_rows(table), [], []
    for number, (text, tags) in enumerate(zip(cells_of(table[text_column]), cells_of(table[label_column]), strict=True)):
        try:
            found.append(sentence(text, tags, names))
        except ValueError as error:
            raise DataError(f"{where}, {row(number)}: {error}") from error
        if isinstance(text, str) and any(isinstance(span, dict) and cuts_a_word(text, span) for span in tags):
            cut.append(number)
    if cut:
        note(
            f"warning: {where}: in {len(cut)} of {len(found)} rows a span begins or ends within a word (the first: "
            f"{row(cut[0])}); do its numbers count characters, from 0, and to before end?"
        )
    return found


def cuts_a_word(text: str, span: Mapping[str, Any]) -> bool:
    """Does it begin or end between two letters or digits? Not where words are written without blanks, as in Chinese."""
    return any(LETTERS.fullmatch(text[max(at - 1, 0) : at + 1]) is not None for at in (span["start"], span["end"]))


def sentence(text: Any, tags: Any, names: Sequence[str] | None) -> Tagged:
    """One row, in any of its forms. Raises ValueError with what is wrong."""
    if isinstance(text, str) and isinstance(tags, list | tuple) and all(isinstance(tag, dict) for tag in tags):
        return from_spans(text, tags)
    if isinstance(text, str) and isinstance(tags, str):
        if text.startswith("[") or tags.startswith("["):
            raise ValueError("lists are not kept in a CSV file: separate words, and tags, by blanks, or use JSON lines")
        text, tags = text.split(), tags.split()
    if not isinstance(text, list | tuple) or not isinstance(tags, list | tuple):
        raise ValueError(f"words and tags are two lists, or a text and the spans in it, found {text!r:.60} and {tags!r:.60}")
    if len(text) != len(tags):
        raise ValueError(f"{len(text)} words and {len(tags)} tags")
    for word in text:
        if not isinstance(word, str):
            raise ValueError(f"a word is a text, found {word!r}")
    return list(text), [tag_of(tag, names) for tag in tags]


def tag_of(tag: Any, names: Sequence[str] | None) -> str:
    """A tag by its name, or by its number where numbers have names. Raises ValueError."""
    if isinstance(tag, str) and tag.strip():
        return tag
    if not isinstance(tag, int) or isinstance(tag, bool):
        raise ValueError(f"a tag is a name, or a number from 0, found {tag!r}")
    if names is None:
        raise ValueError(f"the tag {tag} is a number, and nothing names it: --label-names O,B-...,I-..., in their order")
    if not 0 <= tag < len(names):
        raise ValueError(f"the tag {tag} is none of the {len(names)} that have names")
    return names[tag]


def from_spans(text: str, spans: Sequence[dict[str, Any]]) -> Tagged:
    """Words and punctuation marks, cut where a span begins or ends; B- at the first of a span, I- at the others."""
    marked = []
    for span in spans:
        start, stop, label = span.get("start"), span.get("end"), span.get("label")
        if not (isinstance(label, str) and label.strip() and all(is_a(at, int) for at in (start, stop))):
            raise ValueError(f"a span is {{start, end, label}}, found {span}")
        assert start is not None and stop is not None
        if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
            raise ValueError(f"there is no word from {start} to {stop} of a text of {len(text)} characters")
        marked.append((start, stop, label))
    marked.sort()
    for (_, stop, one), (start, _, other) in pairwise(marked):
        if start < stop:
            raise ValueError(f"spans overlap at {start} ({one} and {other}): each word has one tag")
    words: list[str] = []
    tags: list[str] = []
    at = 0
    for start, stop, label in [*marked, (len(text), len(text), "")]:
        outside, inside = WORD.findall(text[at:start]), WORD.findall(text[start:stop])
        words += outside + inside
        tags += ["O"] * len(outside) + [f"{'I' if i else 'B'}-{label}" for i in range(len(inside))]
        at = stop
    return words, tags


class Encoded:
    """Rows of tokens. ``words``: at each token the number of the word that begins there, else -1; ``sentence``: of each row."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []
        self.words: list[np.ndarray] = []
        self.sentence: list[int] = []

    def add(
        self, encoding: Any, row: int, sentence: int, first_word: int, word_ids: Sequence[int | None] | None = None
    ) -> None:
        """One row of what a fast tokenizer returns, whose words are counted from ``first_word``; ``word_ids``: not its own."""
        numbers = np.array([-1 if word is None else word for word in word_ids or encoding.word_ids(row)])
        begins = (numbers >= 0) & (numbers != np.append(-1, numbers[:-1]))
        self.words.append(np.where(begins, numbers + first_word, -1))
        self.ids.append(np.asarray(encoding["input_ids"][row], dtype=np.int32))
        if "token_type_ids" in encoding:
            self.types.append(np.asarray(encoding["token_type_ids"][row], dtype=np.int8))
        self.sentence.append(sentence)

    def tokens(self) -> Tokens:
        return Tokens.of_rows(self.ids, self.types)


def encode(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int, where: str) -> Encoded:
    """The tokens of each sentence; a longer one becomes several rows, cut between words, so that nothing is lost.

    Raises ModelError for a tokenizer that does not tell which token belongs to which word.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"tags need a fast tokenizer, which knows the word of a token, and {type(tokenizer).__name__} is none")
    found, long = Encoded(), 0
    with left_as_found(tokenizer):
        for start in range(0, len(sentences), CHUNK_ROWS):
            chunk = [list(words) for words in sentences[start : start + CHUNK_ROWS]]
            encoding = tokenizer(chunk, is_split_into_words=True, verbose=False)
            for i, words in enumerate(chunk):
                if len(encoding["input_ids"][i]) <= max_length:
                    found.add(encoding, i, start + i, 0)
                    continue
                long += 1
                for a, b in cuts(encoding.word_ids(i), len(words), max_length):
                    piece = tokenizer([words[a:b]], is_split_into_words=True, truncation=True, max_length=max_length)
                    found.add(piece, 0, start + i, a)
    if long:
        note(
            f"{where}: {long} of {len(sentences)} sentences have more than {max_length} tokens: cut between words into several"
        )
    return found


def with_tags(
    sentences: Sequence[Tagged], names: Sequence[str], tokenizer: Any, max_length: int, where: str, row: RowName
) -> tuple[Encoded, np.ndarray]:
    """The tokens of all sentences that have a word; and [tokens] int32 the number of a word's tag at its first token, -100
    elsewhere. ``names``: of the tags. ``Encoded.sentence`` counts all sentences; ``row``: what errors call one.

    Raises DataError for a tag that has no number, and where no word has a token.
    """
    numbers = {name: i for i, name in enumerate(names)}
    for i, (_, tags) in enumerate(sentences):
        if unknown := next((tag for tag in tags if tag not in numbers), None):
            raise DataError(f"{where}, {row(i)}: the tag {unknown!r} is none of those trained: {', '.join(names)}")
    kept = [i for i, (words, _) in enumerate(sentences) if words]
    found = encode([sentences[i][0] for i in kept], tokenizer, max_length, where)
    found.sentence = [kept[i] for i in found.sentence]
    of_words = {i: np.array([numbers[tag] for tag in sentences[i][1]]) for i in kept}
    labels = [np.where(words >= 0, of_words[i][words], -100) for words, i in zip(found.words, found.sentence, strict=True)]
    flat = np.concatenate(labels).astype(np.int32)
    num_tagged = int((flat != -100).sum())
    if not num_tagged:
        model = tokenizer.name_or_path
        raise DataError(f"{where}: no word has a token of {model}: their characters cannot be seen, or it knows none")
    if lost := sum(map(len, of_words.values())) - num_tagged:
        note(f"{where}: {lost} words have no token, as their characters cannot be seen: they are not tagged")
    return found, flat


def cuts(word_ids: Sequence[int | None], num_words: int, max_length: int) -> Iterator[tuple[int, int]]:
    """Ranges of words whose tokens fit, special ones included; a word that does not fit by itself is a range of its own."""
    counts = np.bincount([word for word in word_ids if word is not None], minlength=num_words)
    room = max_length - word_ids.count(None)
    start, size = 0, 0
    for word, count in enumerate(counts.tolist()):
        if size and size + count > room:
            yield start, word
            start, size = word, 0
        size += count
    yield start, num_words
