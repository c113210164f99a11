"""Sentences in columns, as the CoNLL shared tasks have them: a word a line, its tag in the last column, a blank line between.

    EU      B-ORG
    rejects O

Columns are separated by tabs, or where there are none by blanks, so a word of a tab-separated file may hold a blank. A line
-DOCSTART- names no word and is left out, as are comments of the CoNLL-U form (# text = ...) in front of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.data.form import Columns, choose
from engine.errors import DataError

WORDS, TAGS = "tokens", "tags"
PIECE = 1000


def read_conll(path: Path, columns: Sequence[str] | None, lines: Iterable[str]) -> Iterator[Columns]:
    """Sentences, a thousand at a time: {"tokens": [[word, ...], ...], "tags": ...}. Raises DataError with the line."""
    wanted = choose(path, [WORDS, TAGS], columns)
    words: list[list[str]] = []
    tags: list[list[str]] = []
    width, is_new = 0, True
    for number, text in enumerate(lines, start=1):
        line = text.rstrip("\r\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            is_new = True
            continue
        if is_new and line.startswith("# "):
            continue
        cells = line.split("\t") if "\t" in line else line.split(" ")
        width = width or len(cells)
        if len(cells) < 2 or len(cells) != width or not cells[-1].strip():
            needed = f"{width} columns, as before it" if width > 1 else "a word and its tag"
            raise DataError(f"{path}, line {number}: {needed}, are needed between blank lines, found {line!r:.80}")
        if is_new:
            if len(words) == PIECE:
                yield {name: column for name, column in ((WORDS, words), (TAGS, tags)) if name in wanted}
                words, tags = [], []
            words.append([])
            tags.append([])
        words[-1].append(cells[0])
        tags[-1].append(cells[-1].strip())
        is_new = False
    yield {name: column for name, column in ((WORDS, words), (TAGS, tags)) if name in wanted}
