"""How the text files of a data set are written, as far as the user says it, and the columns that readers give.

No torch in here. Next: streams.py, which opens a file; delimited.py, json_rows.py and arrow_rows.py, which read one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import DataError, MissingColumnError, UsageError

Columns = dict[str, list[Any]]  # columns of equal length
Quoting = Literal["csv", "none", "backslash"]
PIECE_ROWS = 10_000
MARKS = {"": '"', ",": "','", "\t": r"'\t'"}

DELIMITER = r"between the cells (default: comma; \t in .tsv; a .txt file has none)"
ENCODING = "of text files (default: UTF-8, or what the first bytes say)"
QUOTING = 'csv: cells may stand in quotes; none: quotes are text; backslash: \\" is a quote (default: csv; .tsv: as it reads)'
COLUMN_NAMES = "comma-separated names of the columns of a file whose first line is a row (default: the first line names them)"


@dataclass(frozen=True)
class Form:
    """What the user says about text files; None: what their names and first lines say. Raises UsageError."""

    delimiter: str | None = None
    encoding: str | None = None
    quoting: Quoting | None = None
    column_names: str | None = None

    @classmethod
    def of(cls, config: Any) -> Form:
        """From settings that have these four."""
        return cls(config.delimiter, config.encoding, config.quoting, config.column_names)

    def __post_init__(self) -> None:
        if self.names is not None and ("" in self.names or len(set(self.names)) < len(self.names)):
            raise UsageError(f"--column-names needs a different name for each column, found {self.column_names!r}")

    @property
    def separator(self) -> str | None:
        r"""The delimiter, of which ``\t`` is one spelling. Raises DataError for more than one character."""
        if not self.delimiter:
            return None
        mark = self.delimiter.replace("\\t", "\t")
        if len(mark) != 1:
            raise DataError(f"--delimiter must be one character, found {self.delimiter!r}")
        return mark

    @property
    def names(self) -> list[str] | None:
        """The columns' names, for a file without a header."""
        return [name.strip() for name in self.column_names.split(",")] if self.column_names else None

    def refuse_names(self, path: Path) -> None:
        """Raises UsageError for ``--column-names`` with a file whose cells bring their names along."""
        if self.names is not None:
            raise UsageError(f"--column-names is for CSV, TSV and text files; the columns of {path} have names: leave it out")


def choose(path: Path | str, found: Sequence[str], wanted: Sequence[str] | None, hint: str = "") -> list[str]:
    """The wanted columns (None: all), all of which must be there. Raises DataError; ``hint``: its end."""
    for name in wanted or ():
        if name not in found:
            words = f"{path} has no column {name!r} (it has: {', '.join(map(repr, found))}){hint}"
            raise MissingColumnError(words, name, found)
    return list(wanted if wanted is not None else found)


def refuse_repeated(path: Path, header: Sequence[str], name: str) -> None:
    """Raises DataError for a column asked for whose name stands twice."""
    if (times := header.count(name)) > 1:
        raise DataError(f"{path}: column {name!r} stands {times} times in the header: rename one of them")


def delimiter_hint(found: Sequence[str]) -> str:
    """How to go on when a header was read as one column, and looks like several."""
    mark = next((mark for mark in ",;\t|" if len(found) == 1 and mark in found[0]), None)
    return f"; if the cells are separated by {mark!r}, say --delimiter {mark!r}" if mark else ""


def way_to(row: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """The keys that lead to a field: of ``a.b`` the key ``a.b`` itself, else ``b`` within ``a``. None: there is none."""
    if name in row:
        return (name,)
    for at, letter in enumerate(name):
        within = row.get(name[:at]) if letter == "." else None
        if isinstance(within, Mapping) and (rest := way_to(within, name[at + 1 :])) is not None:
            return (name[:at], *rest)
    return None


def follow(row: Mapping[str, Any], way: Sequence[str]) -> Any:
    """The value at the end of a way. Raises KeyError."""
    value: Any = row
    for key in way:
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[key]
    return value


def nested_hint(row: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """How to go on when a column that is missing stands within another."""
    for name in wanted:
        inside = (f"{key}.{name}" for key, value in row.items() if isinstance(value, Mapping) and name in value)
        if name not in row and (path := next(inside, None)):
            return f"; a field within another is named with a dot: {path!r}"
    return ""


class Nested(dict[str, list[Any]]):
    """Columns of a table, in which ``a.b`` is found, too, where the cells of ``a`` are objects that all have a ``b``.

    ``first``: the row that says how, for some rows of a table: the table's first; None: the first of these.
    """

    first: Mapping[str, Any] | None = None

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and self._within(name) is not None)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - it is this

    def __missing__(self, name: str) -> list[Any]:
        if (cells := self._within(name)) is None:
            raise KeyError(name)
        return cells

    def first_row(self) -> dict[str, Any]:
        return {key: cells[0] for key, cells in self.items() if cells}

    def _within(self, name: str) -> list[Any] | None:
        first = self.first_row() if self.first is None else self.first
        if (way := way_to(first, name)) is None or way[0] not in self.keys():
            return None
        try:
            return [follow({way[0]: cell}, way) for cell in self[way[0]]]
        except KeyError:
            return None


def joined(pieces: Iterator[Columns]) -> Columns:
    """All pieces as one; what a piece does not have is None in its rows."""
    rows: Columns = Nested()
    total = 0
    for piece in pieces:
        number = len(next(iter(piece.values()), ()))
        for name in [*piece, *(name for name in rows.keys() if name not in piece)]:  # noqa: SIM118 - without the nested ones
            if name not in rows.keys():  # noqa: SIM118
                rows[name] = [None] * total
            rows[name] += piece.get(name, [None] * number)
        total += number
    return rows
