"""Tables as text: CSV, TSV, and the lines of a .txt file. A cell is a string, always, and as it stands in the file.

A row that does not fit is refused with its number. Where quotes can be read in two ways, the file as a whole decides: a file
all of whose lines are rows by themselves holds no cell over several lines. Next: files.py, which chooses the reader.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from engine.console import note
from engine.data import form as forms
from engine.data.form import Columns, Form, Quoting, choose, delimiter_hint, refuse_repeated
from engine.data.streams import MOST_LINE, open_text
from engine.errors import DataError, UsageError

DIALECTS: dict[Quoting, dict[str, Any]] = {
    "csv": {},
    "none": {"quoting": csv.QUOTE_NONE},
    "backslash": {"doublequote": False, "escapechar": "\\"},
}
HEADERLESS = "; if its first line is a row and no header, name the columns: --column-names NAME,NAME"


def read_lines(path: Path, columns: Sequence[str] | None, form: Form) -> Iterator[Columns]:
    """The lines of a .txt file, without their ends, as one column."""
    if form.names is not None and len(form.names) > 1:
        raise UsageError(f"--column-names {form.column_names}: {path} has one column, its lines; --delimiter '\\t' cuts them")
    lines = open_text(path, form.encoding)
    first = next(lines, "")
    mark = next((mark for mark in "\t;|," if mark in first), None)
    hint = f"; if {mark!r} separates the cells of a line, say --delimiter {mark!r}, and --column-names NAME,NAME if its first "
    [name] = form.names or ["text"]
    choose(path, [name], columns, f"{hint}line is a row and no header" if mark else "")
    rest = chain([first] if first else [], lines)
    while piece := [line.removesuffix("\n").removesuffix("\r") for line in islice(rest, forms.PIECE_ROWS)]:
        yield {name: piece}


class Lines:
    """The lines that a csv reader takes. ``widths``: how many cells each would have without quoting; ``skipped``: before it."""

    def __init__(self, lines: Iterable[str], delimiter: str, skipped: int = 0):
        self.lines, self.delimiter, self.skipped = iter(lines), delimiter, skipped
        self.widths: set[int] = set()
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            if len(line) > 2 or line.strip("\r\n"):
                self.widths.add(line.count(self.delimiter) + 1)
            self.last = line
            yield line

    def fit_plainly(self) -> bool:
        """Is each line of the file a row by itself, if quotes are text? Reads to the end."""
        for _ in self:
            pass
        return len(self.widths) == 1 and self.widths != {1}


def begin(path: Path, form: Form, delimiter: str) -> Lines:
    """The lines, after Excel's ``sep=;`` if there is one; which delimiter it is, they know."""
    lines = open_text(path, form.encoding)
    first = next(lines, "")
    if found := re.fullmatch(r"sep=(.)[\r\n]*", first, flags=re.IGNORECASE):
        if form.separator not in (None, found[1]):
            raise DataError(f"{path} begins with {first.strip()!r}, and you say --delimiter {form.delimiter!r}: leave it out")
        return Lines(lines, found[1], skipped=1)
    return Lines(chain([first] if first else [], lines), delimiter)


def read_delimited(path: Path, columns: Sequence[str] | None, form: Form, delimiter: str) -> Iterator[Columns]:
    """The cells of a CSV or TSV file. Raises DataError for a row that does not fit, with its number."""
    quoting = form.quoting or quoting_of(path, form, delimiter)
    csv.field_size_limit(MOST_LINE)
    lines = begin(path, form, delimiter)
    reader = csv.reader(iter(lines), delimiter=lines.delimiter, strict=True, **DIALECTS[quoting])
    sheet = Sheet(path, form, lines)
    number, ended = 0, 0  # rows, and lines
    try:
        first = next(reader, None)
        if first is None:
            raise DataError(f"{path} is empty")
        sheet.take_header(first, columns)
        ended = 0 if form.names else reader.line_num
        sheet.ends.add(lines.last[-2:])
        rows = sheet.empty()
        for cells in chain([first] if form.names else [], reader):
            began, ended = ended, reader.line_num
            sheet.ends.add(lines.last[-2:])
            if not cells:
                continue  # an empty line
            number += 1
            if len(cells) != sheet.width:
                raise DataError(sheet.ragged(number, len(cells), began + 1, ended))
            if ended > began + 1 and not sheet.over_lines:
                sheet.over_lines = f"row {number} (lines {lines.skipped + began + 1} to {lines.skipped + ended})"
            for name, index in sheet.kept:
                rows[name].append(cells[index])
            if sheet.unnamed:
                sheet.count_unnamed(cells, number)
            if number % forms.PIECE_ROWS == 0:
                yield rows
                rows = sheet.empty()
    except csv.Error as error:
        raise DataError(sheet.broken(number + 1, reader.line_num, str(error))) from error
    sheet.at_the_end(number)
    yield rows


def quoting_of(path: Path, form: Form, delimiter: str) -> Quoting:
    """How a file is quoted that nobody has said it of: as CSV is; but tabs separate cells that seldom are.

    Where each line of such a file is a row by itself, and quoting would make an error or one row of several, quotes are text.
    """
    lines = begin(path, form, delimiter)
    if lines.delimiter != "\t":
        return "csv"
    csv.field_size_limit(MOST_LINE)
    reader = csv.reader(iter(lines), delimiter="\t", strict=True)
    number, width, is_csv = 0, 0, True
    try:
        for number, cells in enumerate(reader, start=1):
            width = width or len(cells)
            if (number < reader.line_num and width > 1) or len(cells) not in (0, width):
                is_csv = False
            if not is_csv or len(lines.widths) > 1:
                break
    except csv.Error:
        number, is_csv = number + 1, False
    if is_csv or not (lines.fit_plainly() or lines.widths == {1}):
        return "csv"
    note(
        f"{path}: each line is read as a row and quotes as text, for by the rules of CSV line {lines.skipped + number} is none "
        "(--quoting csv holds to these rules)"
    )
    return "none"


class Sheet:
    """The columns of a delimited file, and what its faults are called."""

    def __init__(self, path: Path, form: Form, lines: Lines):
        self.path, self.form, self.lines = path, form, lines
        self.width = 0
        self.kept: list[tuple[str, int]] = []
        self.over_lines = ""  # the first row that is
        self.ends: set[str] = set()  # the last two characters of the rows
        self.unnamed: list[int] = []  # columns without a name, which are left out
        self.num_unnamed, self.first_unnamed = 0, 0

    def take_header(self, first: list[str], columns: Sequence[str] | None) -> None:
        """The columns to keep. A name that stands twice, or is none, matters only to who asks for it. Raises DataError."""
        header = self.form.names or first
        if self.form.names and [cell.strip().lower() for cell in first] == [name.lower() for name in self.form.names]:
            raise DataError(f"{self.path}: its first line is a header with these names: leave out --column-names")
        if len(header) != len(first):
            raise DataError(
                f"{self.path}: --column-names names {len(header)} columns, and its first line has {len(first)} cells"
                f"{delimiter_hint([self.lines.last]) if len(first) == 1 else ''}"
            )
        self.width = len(header)
        for name in columns or ():
            refuse_repeated(self.path, header, name)
        names = told_apart(header)
        hint = delimiter_hint(header)
        if not hint and not self.form.names and not set(columns or ()) & set(names):
            hint = HEADERLESS
        self.kept = [(name, names.index(name)) for name in choose(self.path, names, columns, hint)]
        indices = {index for _, index in self.kept}
        self.unnamed = [i for i, name in enumerate(header) if not name.strip() and i not in indices]

    def empty(self) -> Columns:
        return {name: [] for name, _ in self.kept}

    def count_unnamed(self, cells: list[str], number: int) -> None:
        """What stands in columns without a name is left out: most often it is part of a text with a comma."""
        if any(cells[i].strip() for i in self.unnamed):
            self.num_unnamed += 1
            self.first_unnamed = self.first_unnamed or number

    def ragged(self, number: int, found: int, began: int, ended: int) -> str:
        over = f"lines {self.lines.skipped + began} to" if ended > began else "line"
        what = f"{self.path} row {number} ({over} {self.lines.skipped + ended}) has {found} cells, "
        what += f"--column-names {self.width}" if self.form.names else f"the header has {self.width}"
        return what + (self._plain_hint() if ended > began else "")

    def broken(self, number: int, line: int, error: str) -> str:
        """What the csv module says, and the way in."""
        if "new-line character" in error:
            error = (
                "a line break within a cell without quotes, or two kinds of line ends: write the file with one kind, and quotes"
            )
        cause = "a quote is not closed" if "unexpected end" in error else error.replace("\t", "\\t")
        where = f"{self.path} row {number} (line {self.lines.skipped + line})"
        if '\\"' in self.lines.last and self.form.quoting is None:
            return f'{where}: {cause}; --quoting backslash reads \\" as a quote'
        return f"{where}: {cause}{self._plain_hint()}"

    def _plain_hint(self) -> str:
        fits = self.form.quoting is None and self.lines.fit_plainly()
        return "; each line is a row if quotes are text: --quoting none reads it so" if fits else ""

    def at_the_end(self, number: int) -> None:
        """Says what is in doubt. Raises DataError where the file reads with and without quoting, and the rows are others."""
        if self.over_lines and self.form.quoting is None and self.width > 1 and len(self.lines.widths) == 1:
            raise DataError(
                f"{self.path} {self.over_lines} is one cell over several lines by its quotes, and each of these lines is a row "
                f"if quotes are text: --quoting csv reads {number} rows, --quoting none one in each line"
            )
        if self.over_lines and self.form.quoting is None and self.width == 1:
            note(f"{self.path} {self.over_lines} is one cell, between quotes (--quoting none reads a row in each line)")
        if len({end[len(end.rstrip("\r\n")) :] for end in self.ends} - {""}) > 1:
            note(f"warning: {self.path}: some rows end with a carriage return, some without: none of them is taken for text")
        if self.num_unnamed:
            note(
                f"warning: {self.path}: {self.num_unnamed} of {number} rows have text in columns without a name, which is left "
                f"out (the first: row {self.first_unnamed}); is it part of a text that should stand in quotes?"
            )


def told_apart(header: Sequence[str]) -> list[str]:
    """Names for all columns: ``column 3`` for one that has none, ``text (2)`` for the second of that name."""
    found: list[str] = []
    for number, name in enumerate(header, start=1):
        base = name if name.strip() else f"column {number}"
        unique, nth = base, 1
        while unique in found or (unique != name and unique in header):
            nth += 1
            unique = f"{base} ({nth})"
        found.append(unique)
    return found
