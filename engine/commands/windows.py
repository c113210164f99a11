"""The rows of a file as windows: some thousands that are predicted together, whose borders depend on the file alone.

So whatever else is decided while a file is predicted (how it is read, by how many processes, whether it is the second attempt)
changes no batch, and no last bit. All of it is looked over once before the first prediction. Next: predict.py.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.data.form import Columns, Nested, choose
from engine.errors import DataError

MOST_CHARACTERS = 4_000_000  # of a window, the row included that goes beyond
SURVEY_ROWS = 4096  # held at a time where nothing is predicted


class Window(NamedTuple):
    """Rows of a file. ``first``: the number of the first of them, from 0."""

    first: int
    rows: Columns

    def __len__(self) -> int:
        return len_of(self.rows)


class Survey(NamedTuple):
    """What a first reading has found. ``first``: the first row. ``whole``: all rows, where they are one window."""

    names: list[str]
    num_rows: int
    first: Mapping[str, Any]
    whole: Window | None


def len_of(rows: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(rows.values()), ()))


def size(cell: Any) -> int:
    return len(cell if isinstance(cell, str) else str(cell))


def windows_of(
    pieces: Iterator[Columns], most_rows: int | None, names: Sequence[str] = (), first: Mapping[str, Any] | None = None
) -> Iterator[Window]:
    """Windows of at most ``most_rows`` (None: one window), with all ``names``: what a row does not have is None.

    Names that are not among them are found on the way; ``first``: what says how nested columns are reached.
    """
    start, characters = 0, 0
    held = empty(names, first)
    for piece in pieces:
        total, begin = len_of(piece), 0
        sizes = [] if most_rows is None else [sum(map(size, cells)) for cells in zip(*piece.values(), strict=True)]
        for row, length in enumerate(sizes):
            characters += length
            if len_of(held) + row + 1 - begin == most_rows or characters >= MOST_CHARACTERS:
                add(held, piece, begin, row + 1)
                yield Window(start, held)
                start, begin, characters = start + len_of(held), row + 1, 0
                held = empty([*held.keys()], first)
        add(held, piece, begin, total)
    if len_of(held):
        yield Window(start, held)


def empty(names: Sequence[str], first: Mapping[str, Any] | None) -> Nested:
    held = Nested({name: [] for name in names})
    held.first = first
    return held


def add(held: Nested, piece: Columns, begin: int, end: int) -> None:
    """These rows of a piece below those that are there."""
    before, number = len_of(held), end - begin
    for name in [*held.keys(), *(name for name in piece if name not in held.keys())]:  # noqa: SIM118 - without the nested ones
        cells = held.setdefault(name, [None] * before)
        cells += piece[name][begin:end] if name in piece else [None] * number


def survey(
    pieces: Callable[[], Iterator[Columns]],
    *,
    name: str,
    id_column: str,
    wanted: Sequence[str],
    check: Callable[[Window], None],
) -> Survey:
    """Read all rows once, of which one window is held at a time. ``wanted``: columns that must be there; ``check``: of windows.

    Raises DataError for what is broken, for a missing column, and for an id of ``id_column`` that stands twice.
    """
    ids, missing, whole = Ids(id_column), set[str](), None
    names: list[str] = []
    first: Mapping[str, Any] | None = None
    number = 0
    for window in windows_of(pieces(), SURVEY_ROWS):
        first = window.rows.first_row() if first is None and isinstance(window.rows, Nested) else first
        window.rows.first = first  # type: ignore[attr-defined]
        check(window)
        ids.add(window)
        missing |= {column for column in wanted if column not in window.rows}
        whole = window if number == 0 else None
        names, number = [*window.rows.keys()], number + len(window)
    if lacking := [column for column in wanted if column in missing and column not in names]:
        choose(name, names, lacking)  # which raises
    if repeated := ids.repeated(names):
        refuse_repeated(lambda: windows_of(pieces(), SURVEY_ROWS, names, first), id_column, repeated, name)
    return Survey(names, number, first or {}, whole)


class Ids:
    """Which rows may have the same id? A hash of eight bytes is kept of each, and none of them is known beforehand."""

    def __init__(self, column: str):
        self.column, self.hashes, self.key = column, array("Q"), os.urandom(16)
        self.is_lacking = False  # in a window

    def add(self, window: Window) -> None:
        cells = window.rows.get(self.column)
        self.is_lacking |= cells is None
        for row, cell in enumerate(cells or [None] * len(window), start=window.first):
            text = f"\0{row}" if cell is None else str(cell)
            digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8, key=self.key).digest()
            self.hashes.append(int.from_bytes(digest, "little"))

    def repeated(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Rows whose id seems to stand in one before them, too, with that: ``(before, row)``, from 0, in order of the rows."""
        if self.is_lacking and self.column not in names:
            return []
        hashes = np.frombuffer(self.hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        follows = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
        rows = np.sort(order[follows])[:1000]
        before = order[np.searchsorted(hashes, hashes[rows], sorter=order)]
        return list(zip(before.tolist(), rows.tolist(), strict=True))


def refuse_repeated(
    windows: Callable[[], Iterator[Window]], column: str, candidates: Sequence[tuple[int, int]], name: str
) -> None:
    """Two predictions of one id could not be told apart. Raises DataError; of equal hashes the ids may yet be others."""
    wanted = {row for pair in candidates for row in pair}
    found: dict[int, str | None] = {}
    for window in windows():
        cells = window.rows.get(column) or [None] * len(window)
        for row in wanted.intersection(range(window.first, window.first + len(window))):
            found[row] = None if cells[row - window.first] is None else str(cells[row - window.first])
    for before, row in candidates:
        if found[row] is not None and found[row] == found[before]:
            raise DataError(
                f"{name} row {row + 1}: id {found[row]!r} stands in row {before + 1}, too. "
                "Give each row its own, or name another column with --id-column"
            )
