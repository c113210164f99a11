"""Files that commands write: which names are refused before the work begins, and predictions beside the input's columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

from engine import atomic
from engine.artifacts.directory import FOLDERS, is_own_name, read_run
from engine.checked import is_half
from engine.data.form import Columns
from engine.data.places import OF_DATA, is_named
from engine.errors import DataError, ResourceError, UsageError, UserError
from engine.settings.fields import user_path

TABLES = (".csv", ".jsonl")
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: in full width


def check_output(
    flag: str, name: str | None, kinds: Sequence[str], *, inputs: Sequence[str | None] = (), model: str = "", own: str = ""
) -> None:
    """Refuse a file that cannot be made, or must not: better now than when the work is done. Raises UsageError.

    ``kinds``: how it may end. ``inputs``: what the command reads, or writes besides. ``model``: that it uses; if that is a
    run, the files of its settings are inputs, too. ``own``: of the names of a run's files the one that the command may write.
    """
    if name is None:
        return
    path, refused = Path(name), f"{flag} {name}"
    if path.is_dir():
        raise UsageError(f"{refused} is a directory: name a file")
    if path.suffix.lower() not in kinds:
        raise UsageError(f"{flag} must end in {', '.join(kinds[:-1])}{' or ' * (len(kinds) > 1)}{kinds[-1]}, found {name!r}")
    if not path.parent.is_dir():
        raise UsageError(f"{refused}: there is no such directory")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{refused} is {'a link' if path.is_symlink() else 'no regular file'}: name another")
    with suppress(UserError):  # a model of the Hub has no settings
        settings = read_run(user_path(model)).settings if model else {}
        inputs = [*inputs, *(settings[name] for name in OF_DATA if isinstance(settings.get(name), str))]
    if any(is_named(path, read) for read in inputs if read):
        raise UsageError(f"{refused} is the input, or written already: name another file")
    for folder in path.resolve().parents:
        within = path.resolve().relative_to(folder)
        is_run, is_model = (folder / "run.json").exists(), (folder / "config.json").exists()
        is_own = is_own_name(within.as_posix()) and within.name != own
        if (is_own and (is_run or is_model)) or (is_run and within.parts[0] in FOLDERS):
            raise UsageError(f"{refused} is a file of the model or run in {folder}: name another")


def check_writable(rows: Columns, path: Path, where: str, first: int = 0) -> None:
    """Raises DataError for a cell that the file could not hold, or that would not be read again.

    ``first``: the number of the first of these rows, from 0.
    """
    for name, cells in rows.items():
        for row, cell in chain([(0, name)], enumerate(cells, start=first + 1)):
            text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, default=str)
            place = f"{where}, row {row}, column {name!r}" if row else f"{where}, the name of a column"
            if is_half(text):
                raise DataError(f"{place}: the text holds half a character (a lone surrogate), which no file can hold: mend it")
            if is_flat(path) and "\0" in text:
                raise DataError(f"{place}: the text holds a NUL, which a CSV file cannot: give an --output that ends in .jsonl")


def is_flat(path: Path) -> bool:
    """Are the cells of this file single values? Those of a CSV file are; a line of a JSONL file holds lists and objects."""
    return path.suffix.lower() == ".csv"


def without_formula(value: Any) -> Any:
    """A cell that a spreadsheet takes for a text and does not compute (CSV injection, OWASP): with a quote before it."""
    is_formula = isinstance(value, str) and value.startswith(FORMULAS)
    return f"'{value}" if is_formula else value


class Table:
    """What stands in the file: the input's columns as they were, and beside them what was found in each row.

    ``names``: the input's columns. ``columns``: all of a CSV file; None: those of the first row that is asked for.
    ``excel_safe``: without_formula for each cell of a CSV file.
    """

    def __init__(self, path: Path, names: Sequence[str], excel_safe: bool = False, columns: Sequence[str] | None = None):
        self.is_flat, self.names, self.excel_safe = is_flat(path), list(names), excel_safe
        self.columns = None if columns is None else list(columns)

    def text(self, rows: Columns, cells: Sequence[Mapping[str, Any]], *, header: bool = True) -> str:
        """Rows with ``cells``, what was found in each by column as the task names them; a CSV file begins with its header."""
        stream = io.StringIO(newline="")
        lines = (self.line(rows, i, found) for i, found in enumerate(cells))
        if not self.is_flat:
            self.columns = self.columns or []
            stream.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
            return stream.getvalue()
        writer = csv.writer(stream)
        if self.columns is None:
            self.columns = [*dict.fromkeys([*self.names, *(self.beside(rows, key) for key in cells[0])])]
        if header:
            writer.writerow([self.cell(name) for name in self.columns])
        writer.writerows([self.cell(line[name]) for name in self.columns] for line in lines)
        return stream.getvalue()

    def line(self, rows: Columns, row: int, found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: rows[name][row] for name in self.names} | {self.beside(rows, key): cell for key, cell in found.items()}

    def beside(self, rows: Columns, key: str) -> str:
        """A name that the input has not; it may be the output of an earlier call."""
        while key in rows:
            key = f"predicted_{key}"
        return key

    def cell(self, value: Any) -> Any:
        if self.is_flat and isinstance(value, list | dict):
            value = json.dumps(value, ensure_ascii=False, default=str)
        return without_formula(value) if self.excel_safe else value


def write_predictions(path: Path, rows: Columns, cells: Sequence[Mapping[str, Any]], excel_safe: bool = False) -> None:
    """All rows of a file at once. Raises ResourceError."""
    with writing("--output", path) as stream:
        stream.write(Table(path, list(rows), excel_safe).text(rows, cells))


@contextmanager
def writing(flag: str, path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A stream whose contents become the file that the flag names; an older one stays until then. Raises ResourceError."""
    try:
        with atomic.replacing(path, binary=binary) as stream:
            yield stream
    except OSError as error:
        raise ResourceError(f"{flag} {path} cannot be written: {error.strerror}") from error
