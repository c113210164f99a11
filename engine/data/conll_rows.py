"""Sentences in columns, as the CoNLL shared tasks have them: a word a line, its tag in the last column, a blank line between.

    EU      B-ORG
    rejects O

Columns are separated by tabs, or where there are none by blanks, so a word of a tab-separated file may hold a blank. A line
-DOCSTART- names no word and is left out, as are comments of the CoNLL-U form (# text = ...) in front of a sentence. What may be
a comment or a row is refused, and so are words that are numbers of words, as the first column of CoNLL-U has them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.data.form import Columns, choose
from engine.errors import DataError

WORDS, TAGS = "tokens", "tags"
PIECE = 1000


def read_conll(path: Path, columns: Sequence[str] | None, lines: Iterable[str]) -> Iterator[Columns]:
    """Sentences, a thousand at a time: {"tokens": [[word, ...], ...], "tags": ...}. Raises DataError with the line."""
    wanted = choose(path, [WORDS, TAGS], columns)
    piece: Columns = {WORDS: [], TAGS: []}
    width = 0
    for is_new, cells in rows_in(path, lines):
        if is_new:
            if len(piece[WORDS]) == PIECE:
                refuse_numbers(path, piece[WORDS], width)
                yield {name: piece[name] for name in wanted}
                piece = {WORDS: [], TAGS: []}
            piece[WORDS].append([])
            piece[TAGS].append([])
        width = len(cells)
        piece[WORDS][-1].append(cells[0])
        piece[TAGS][-1].append(cells[-1].strip())
    refuse_numbers(path, piece[WORDS], width)
    yield {name: piece[name] for name in wanted}


def rows_in(path: Path, lines: Iterable[str]) -> Iterator[tuple[bool, list[str]]]:
    """Does a sentence begin with it, and the cells of each row. Raises DataError with the line."""
    width, mark, is_new = 0, "", True
    comments: list[tuple[int, str]] = []  # not yet held against a row
    for number, text in enumerate(lines, start=1):
        line = text.rstrip("\r\n")
        if not line.strip() or line.startswith("-DOCSTART-"):
            is_new = True
        elif is_new and line.startswith("# "):
            comments.append((number, line))
        else:
            cells = line.split("\t") if "\t" in line else line.split(" ")
            width, mark = width or len(cells), mark or ("\t" if "\t" in line else " ")
            if len(cells) < 2 or len(cells) != width or not cells[-1].strip():
                needed = f"{width} columns, as before it" if width > 1 else "a word and its tag"
                raise DataError(f"{path}, line {number}: {needed}, are needed between blank lines, found {line!r:.80}")
            yield is_new, cells
            is_new = False
        if mark:
            refuse_doubtful(path, comments, mark, width)
            comments = []


def refuse_doubtful(path: Path, comments: Iterable[tuple[int, str]], mark: str, width: int) -> None:
    """Raises DataError for a line that begins as a comment and has as many cells as a row: the word may be #."""
    for number, line in comments:
        if len(line.split(mark)) == width:
            raise DataError(
                f"{path}, line {number}: {line!r:.80} may be a comment, or the word '#' and its tag: remove it, or separate"
                " the columns of the file by tabs"
            )


def refuse_numbers(path: Path, sentences: Sequence[Sequence[str]], width: int) -> None:
    """Raises DataError where the words of all sentences are 1, 2, 3 ...: of CoNLL-U, whose first column holds no words."""
    if width > 2 and any(len(words) > 1 for words in sentences) and all(map(are_counted, sentences)):
        raise DataError(
            f"{path}: its first column numbers the words, as CoNLL-U does, and which of its {width} columns hold words and tags"
            f" it does not say: write these two, words first (cut -f 2,4 {shlex.quote(str(path))} > words.conll)"
        )


def are_counted(words: Sequence[str]) -> bool:
    """1, 2, 3 ..., between them 1-2 (several words written as one) and 1.1 (one that is not there)."""
    plain = [word for word in words if not re.fullmatch(r"\d+[-.]\d+", word)]
    return plain == [str(number) for number in range(1, len(plain) + 1)]
