"""Reading a file without losing anything: every text arrives as it stands in the file.

Table readers that guess types turn the text "NA" into nothing and "007" into 7; here a CSV cell is a string, always.
A file that is broken is refused with the number of the row, never repaired. Columns come in pieces, so that a file may be
larger than the memory. Next: streams.py (how a file is opened), delimited.py, json_rows.py, arrow_rows.py,
class_folders.py (how it is read).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from engine.data import class_folders
from engine.data.arrow_rows import cells_of, read_arrow
from engine.data.conll_rows import read_conll
from engine.data.delimited import read_delimited, read_lines
from engine.data.form import Columns, Form, joined
from engine.data.json_rows import read_json
from engine.data.places import Fetch, parts_of
from engine.data.remote import by_address, fetched
from engine.data.streams import ARROW, SUFFIXES, TEXTS, check_readable, kind_of, open_text
from engine.errors import DataError, UsageError

PLAIN = Form()
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
CUT = (".csv", ".tsv", ".txt")  # what a delimiter cuts


def has_types(path: Path) -> bool:
    """Is it a Parquet or Arrow file, or a saved folder, whose columns have types?"""
    return not class_folders.is_one(path) if path.is_dir() else kind_of(path) in ARROW


def check_form(text: str, flag: str, form: Form, fetch: Fetch = fetched) -> None:
    """Is there what a command reads, and does what it is told of text files mean one of them? Raises DataError, UsageError."""
    files = [file for part in parts_of(text, flag, fetch) for file in part.files]
    kinds: set[str] = set()
    for file in files:
        with suppress(OSError):  # a folder that may not be read: said by what opens it
            kinds.add("" if file.is_dir() else kind_of(file))
    for name, meant in {"delimiter": CUT, "quoting": CUT, "column_names": CUT, "encoding": TEXTS}.items():
        if getattr(form, name) and kinds and not kinds & set(meant):
            words = "CSV, TSV and .txt" if meant is CUT else "text"
            raise UsageError(f"--{name.replace('_', '-')} is for {words} files, and {text} is none: leave it out")


def read_table(path: Path, columns: Sequence[str] | None = None, form: Form = PLAIN) -> Columns:
    """The given columns of a file (all of them if None), by its suffix; a .txt file has one column, ``text``.

    Of JSON a row may lack a column that is not asked for by name: it is None there.
    Raises DataError: missing file, broken row (with its number), missing column (with those there), wrong encoding
    (with the byte offset), no rows.
    """
    return joined(read_pieces(path, columns, form))


def read_named(text: str, flag: str, form: Form = PLAIN) -> Columns:
    """All columns of the files that a flag names, one below the other. Raises DataError; UsageError for shares of files."""
    return joined(pieces_named(text, flag, form))


def pieces_named(text: str, flag: str, form: Form = PLAIN) -> Iterator[Columns]:
    """What ``read_named`` reads, some rows at a time; of JSON a piece has the keys of its own rows. Raises as it does."""
    check_form(text, flag, form)
    parts = parts_of(text, flag)
    if any(part.share is not None for part in parts):
        raise UsageError(f"{flag} {text}: shares are for training data: leave them out")
    with by_address():
        for part in parts:
            for file in part.files:
                yield from read_pieces(file, None, form)


def read_pieces(path: Path, columns: Sequence[str] | None = None, form: Form = PLAIN) -> Iterator[Columns]:
    """What ``read_table`` reads, some rows at a time."""
    is_empty = True
    for piece in pieces_of(path, columns, form):
        is_empty = is_empty and not next(iter(piece.values()), [])
        yield piece
    if is_empty:
        raise DataError(f"{path} has no rows")


def pieces_of(path: Path, columns: Sequence[str] | None, form: Form) -> Iterator[Columns]:
    """By the kind of the file."""
    if not path.is_dir():
        check_readable(path)
    if has_types(path):
        form.refuse_names(path)
        return (cells_of(path, batch) for batch in read_arrow(path, columns))
    if path.is_dir():
        form.refuse_names(path)
        return class_folders.read_class_folders(path, columns)
    kind = kind_of(path)
    if kind in (".csv", ".tsv") or (kind == ".txt" and form.separator):
        return read_delimited(path, columns, form, form.separator or ("\t" if kind == ".tsv" else ","))
    if kind in (".jsonl", ".ndjson", ".json"):
        return read_json(path, columns, form, lines=kind != ".json")
    if kind == ".conll":
        form.refuse_names(path)
        return read_conll(path, columns, open_text(path, form.encoding))
    if kind == ".txt":
        return read_lines(path, columns, form)
    if kind in SPREADSHEETS:
        raise DataError(
            f"{path} is a spreadsheet, whose cells hold numbers and dates where a page shows texts (007, 1.5.2024): save the "
            "sheet as CSV, where each cell stands as it is shown (Excel: Save as, 'CSV UTF-8'), and name that file"
        )
    raise DataError(f"{path}: cannot read files of kind {kind or '(none)'!r}; known kinds: {' '.join(SUFFIXES)}")
