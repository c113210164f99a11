"""Reading CSV, JSONL, Parquet and text files without losing anything: every text arrives as it stands in the file.

Table readers that guess types turn the text "NA" into nothing and "007" into 7; here a CSV cell is a string, always.
A file that is broken is refused with the number of the row, never repaired. Only the columns asked for are kept. Columns
come in pieces, so that a file may be larger than the memory; a JSONL file comes whole, for its types show at its end.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checked import each_once, parse_json
from engine.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

Columns = dict[str, list[Any]]  # columns of equal length
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
PIECE_ROWS = 10_000


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, delimiter: str | None = None, encoding: str | None = None
) -> Columns:
    """The given columns of a file (all of them if None), by its suffix; a .txt file has one column, ``text``.

    Raises DataError: missing file, broken row (with its number), missing column (with those there), wrong encoding
    (with the byte offset), no rows.
    """
    rows: Columns = {}
    for piece in read_pieces(path, columns, delimiter=delimiter, encoding=encoding):
        for name, cells in piece.items():
            rows.setdefault(name, []).extend(cells)
    return rows


def read_pieces(
    path: Path, columns: Sequence[str] | None = None, *, delimiter: str | None = None, encoding: str | None = None
) -> Iterator[Columns]:
    """What ``read_table`` reads, some rows at a time."""
    check_readable(path)
    suffix = path.suffix.lower()
    is_empty = True
    try:
        if suffix in (".csv", ".tsv"):
            pieces = read_csv(path, columns, delimiter or ("\t" if suffix == ".tsv" else ","), encoding)
        elif suffix == ".jsonl":
            pieces = iter([read_jsonl(path, columns, encoding)])
        elif suffix == ".parquet":
            pieces = (cells_of(path, batch) for batch in read_parquet(path, columns))
        elif suffix == ".txt":
            pieces = read_lines(path, columns, encoding)
        else:
            raise DataError(f"{path}: cannot read files of kind {suffix or '(none)'!r}; known kinds: {' '.join(SUFFIXES)}")
        for piece in pieces:
            is_empty = is_empty and not next(iter(piece.values()), [])
            yield piece
    except UnicodeDecodeError as error:
        raise DataError(encoding_message(path, encoding, error)) from error
    except UnicodeError as error:  # UTF-16 without its mark
        raise DataError(f"{path} is not {encoding}: {error}") from error
    if is_empty:
        raise DataError(f"{path} has no rows")


def check_readable(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a directory: give a file ({' '.join(SUFFIXES)})")
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise DataError(f"{path} is not a regular file: write what it gives to one first")
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def open_text(path: Path, encoding: str | None) -> Iterator[str]:
    """Lines with their ends as they are; a byte-order mark is not part of the text."""
    try:
        name = codecs.lookup(encoding or "utf-8").name
        with open(path, encoding="utf-8-sig" if name == "utf-8" else encoding, newline="") as stream:
            for number, line in enumerate(stream, start=1):
                if "\0" in line:
                    raise DataError(f"{path} line {number} holds a NUL byte: no text, or in another --encoding")
                yield line
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: unknown encoding (latin-1, utf-16, cp1252 ...)") from error


def encoding_message(path: Path, encoding: str | None, error: UnicodeDecodeError) -> str:
    """Name the offset in the file: the decoder knows only the offset in its buffer."""
    offset, content = error.start, path.read_bytes()
    likely = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
    try:
        content.decode(encoding or "utf-8")
    except UnicodeDecodeError as whole:
        offset = whole.start
    return f"{path} is not {encoding or 'UTF-8'} (byte {offset}): name its encoding, for instance --encoding {likely}"


def read_lines(path: Path, columns: Sequence[str] | None, encoding: str | None) -> Iterator[Columns]:
    """The lines of a .txt file, without their ends."""
    choose(path, ["text"], columns)
    lines = open_text(path, encoding)
    while piece := [line.removesuffix("\n").removesuffix("\r") for line in islice(lines, PIECE_ROWS)]:
        yield {"text": piece}


def read_csv(path: Path, columns: Sequence[str] | None, delimiter: str, encoding: str | None) -> Iterator[Columns]:
    """Strict CSV: quoted newlines and delimiters are text, a ragged row or an open quote is an error."""
    if len(delimiter.replace("\\t", "\t")) != 1:
        raise DataError(f"--delimiter must be one character, found {delimiter!r}")
    csv.field_size_limit(2**31 - 1)
    lines = open_text(path, encoding)
    reader = csv.reader(lines, delimiter=delimiter.replace("\\t", "\t"), strict=True)
    number = 0
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path} is empty")
        refuse_repeated(path, header)
        kept = [(name, header.index(name)) for name in choose(path, header, columns, delimiter)]
        rows: Columns = {name: [] for name, _ in kept}
        for cells in reader:
            if not cells:
                continue  # an empty line
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{path} row {number} (line {reader.line_num}) has {len(cells)} cells, the header has {len(header)}"
                )
            for name, index in kept:
                rows[name].append(cells[index])
            if number % PIECE_ROWS == 0:
                yield rows
                rows = {name: [] for name, _ in kept}
    except csv.Error as error:
        cause = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise DataError(f"{path} row {number + 1} (line {reader.line_num}): {cause}") from error
    yield rows


def read_jsonl(path: Path, columns: Sequence[str] | None, encoding: str | None) -> Columns:
    """One JSON object a line; each must have every column asked for."""
    rows: Columns = {}
    for number, line in enumerate(open_text(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, constants=True, halves=True, pairs=each_once)  # who needs a cell judges it
        except ValueError as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} line {number} must be an object {{...}}, found {type(value).__name__}")
        if not rows:
            rows = {name: [] for name in choose(path, list(value), columns)}
        for name, column in rows.items():
            if name not in value:
                raise DataError(f"{path} line {number} has no {name!r} (it has: {', '.join(value)})")
            column.append(value[name])
    return rows


def read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[RecordBatch]:
    """Read a Parquet file some rows at a time, with plain types: pandas' categories become what they stand for."""
    import pyarrow
    import pyarrow.parquet

    check_readable(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} has no rows")
            names = choose(path, refuse_repeated(path, file.schema_arrow.names), columns)
            for batch in file.iter_batches(PIECE_ROWS, columns=names):
                cells = [c.dictionary_decode() if pyarrow.types.is_dictionary(c.type) else c for c in batch.select(names)]
                yield pyarrow.RecordBatch.from_arrays(cells, names=names)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def refuse_repeated(path: Path, header: list[str]) -> list[str]:
    """The names of the columns. Raises DataError if one stands there twice."""
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: column {name!r} stands {header.count(name)} times in the header")
    return header


def cells_of(path: Path, batch: RecordBatch) -> Columns:
    """The columns as lists of Python's values. Raises DataError for one that Python has not, such as a date after 9999."""
    found: Columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            found[name] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}, column {name!r}: a value is none that Python has ({error})") from error
    return found


def delimiter_hint(found: Sequence[str]) -> str:
    """How to go on when a header was read as one column, and looks like several."""
    mark = next((mark for mark in ",;\t|" if len(found) == 1 and mark in found[0]), None)
    return f"; if the cells are separated by {mark!r}, say --delimiter {mark!r}" if mark else ""


def choose(path: Path, found: Sequence[str], wanted: Sequence[str] | None, delimiter: str | None = None) -> list[str]:
    """The wanted columns, all of which must be there."""
    for name in wanted or ():
        if name not in found:
            hint = delimiter_hint(found) if delimiter is not None else ""
            raise DataError(f"{path} has no column {name!r} (it has: {', '.join(map(repr, found))}){hint}")
    return list(wanted if wanted is not None else found)
