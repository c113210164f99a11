"""Rows of JSON: a line each (.jsonl, .ndjson), or a document (.json) that is an array, an object with one, or lines, too.

Every key of every row is kept where all are asked for. A field within another is named with dots: ``review.text``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checked import each_once, parse_json
from engine.console import note
from engine.data import form as forms
from engine.data.form import Columns, Form, choose, follow, nested_hint, way_to
from engine.data.squad_rows import are_articles, questions_in
from engine.data.streams import open_text
from engine.errors import DataError

Objects = Iterator[tuple[str, dict[str, Any]]]  # what errors call a row, and the row


def read_json(path: Path, columns: Sequence[str] | None, form: Form, *, lines: bool) -> Iterator[Columns]:
    """The rows, some at a time. A row must have every column asked for; of all columns, one that it lacks is None.

    ``lines``: it has a row in each line, and is never held whole. Raises DataError.
    """
    form.refuse_names(path)
    rows = objects_in_lines(path, form) if lines else objects_in(path, columns, form)
    ways: dict[str, tuple[str, ...]] = {}
    piece: Columns = {}
    number = 0
    for where, row in rows:
        if columns is None:
            for name, value in row.items():
                piece.setdefault(name, [None] * number).append(value)
            for name, cells in piece.items():
                if name not in row:
                    cells.append(None)
        else:
            ways = ways or ways_in(path, row, columns)
            for name, way in ways.items():
                try:
                    piece.setdefault(name, []).append(follow(row, way))
                except KeyError as error:
                    raise DataError(f"{path} {where} has no {name!r} (it has: {', '.join(row)})") from error
        number += 1
        if number == forms.PIECE_ROWS:
            yield piece
            piece, number = {}, 0
    if piece:
        yield piece


def ways_in(path: Path, row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """How each column is reached: as in the first row, so in all."""
    ways = {name: way_to(row, name) for name in columns}
    missing = [name for name, way in ways.items() if way is None]
    choose(path, list(row), missing, nested_hint(row, missing))
    return {name: way for name, way in ways.items() if way is not None}


def parsed(text: str, where: str) -> Any:
    """Raises DataError for what is no JSON, and for a key that stands twice."""
    try:
        return parse_json(text, constants=True, halves=True, pairs=each_once)  # who needs a cell judges it
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error


def objects_in_lines(path: Path, form: Form) -> Objects:
    """One object a line; blank lines are passed over."""
    is_first = True
    for number, line in enumerate(open_text(path, form.encoding), start=1):
        if not line.strip():
            continue
        hint = "; a document of several lines is called .json" if is_first and line.strip() in ("[", "{", "[{") else ""
        try:
            value = parsed(line, f"{path} line {number}")
        except DataError as error:
            raise DataError(f"{error}{hint}") from error
        yield f"line {number}", an_object(value, f"{path} line {number}")
        is_first = False


def objects_in(path: Path, columns: Sequence[str] | None, form: Form) -> Objects:
    """The rows of a .json file, which is held whole if it is no file of lines."""
    lines = (line for line in open_text(path, form.encoding) if line.strip())
    first, second = next(lines, ""), next(lines, "")
    if not first:
        return
    if second and is_object(first):
        yield from objects_in_lines(path, form)
        return
    document = parsed("".join([first, second, *lines]), str(path))
    rows = document if isinstance(document, list) else rows_of(path, an_object(document, str(path)), columns)
    if are_articles(rows, columns):
        yield from questions_in(path, rows)
        return
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", an_object(row, f"{path} row {number}")


def is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line, constants=True, halves=True), dict)
    except ValueError:
        return False


def an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object {{...}}, found {type(value).__name__}")
    return value


def is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def rows_of(path: Path, document: dict[str, Any], columns: Sequence[str] | None) -> list[Any]:
    """The rows of a document: the list of objects in it, or itself, if it has the columns. Raises DataError."""
    cells = [follow(document, way) for name in columns or () if (way := way_to(document, name))]
    are_columns = all(isinstance(cell, list | dict) and not is_rows(cell) for cell in cells or document.values())
    if columns and len(cells) == len(columns) and not are_columns:
        return [document]
    lists: dict[str, list[Any]] = {name: value for name, value in document.items() if is_rows(value)}
    if len(lists) > 1 and columns:
        lists = {name: value for name, value in lists.items() if all(way_to(value[0], column) for column in columns)} or lists
    if len(lists) > 1:
        raise DataError(f"{path} holds several lists of rows, {', '.join(map(repr, lists))}: write one to a file of its own")
    if lists:
        [(name, rows)] = lists.items()
        note(f"{path}: the rows are those of its field {name!r}")
        return rows
    if document and are_columns:
        raise DataError(f"{path} holds columns, and no rows: write a row in each line (pandas: orient='records', lines=True)")
    return [document]
