"""Texts that a command works on: given as arguments, or a column of a file, whose other columns stay beside what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.commands.output import TABLES, check_output, check_writable, write_predictions
from engine.console import printable, say
from engine.data.files import read_named
from engine.data.form import Columns, Form
from engine.errors import DataError, UsageError
from engine.installed import program
from tasks.flags import FileConfig


def texts_given(
    config: FileConfig, texts: Sequence[str], *, model: str, what: str, example: str, column: str = "text"
) -> tuple[list[str], Columns]:
    """The texts, and the columns that ``--output`` keeps. ``what`` is given, and how: for the errors.

    ``column``: that of the texts in a file of several columns, if ``--text-column`` names none.

    Raises UsageError for none, or for arguments beside a file; DataError for a file without the column, or without rows.
    """
    if texts and config.input:
        raise UsageError(f"give either {what}, or --input FILE")
    if not texts and not config.input:
        raise UsageError(f"give {what}: {program()} {example}; or --input FILE")
    check_output("--output", config.output, TABLES, inputs=[config.input], model=model)
    rows: Columns = {column: list(texts)} if config.input is None else read_named(config.input, "--input", Form.of(config))
    if config.output:
        check_writable(rows, Path(config.output), config.input or "the arguments")
    if config.input is None:
        if config.text_column is not None:
            raise UsageError("--text-column names a column of --input FILE: give one")
        return list(texts), rows
    name = text_column(rows, config.text_column, config.input, column)
    if not (found := list(rows[name])):
        raise DataError(f"{config.input} has no rows")
    return found, rows


def text_column(rows: Columns, name: str | None, where: str, default: str = "text") -> str:
    """The column that is asked for, else the only one, else the ``default``. Raises DataError."""
    name = name or (next(iter(rows)) if len(rows) == 1 else default)
    if name not in rows:
        raise DataError(f"{where} has no column {name!r} (it has: {', '.join(rows)}): name it with --text-column")
    return name


def pairs_in(rows: Columns, names: Sequence[str], flags: str) -> list[Any]:
    """Of two columns; or of one, ``text``, lines with a tab between two texts. Raises DataError, with the ``flags`` that name
    the columns."""
    if list(rows) == ["text"]:
        return list(rows["text"])
    if missing := [name for name in names if name not in rows]:
        raise DataError(f"the input has no column {missing[0]!r} (it has: {', '.join(rows)}): {flags}")
    return list(zip(*(rows[name] for name in names), strict=True))


def write_found(config: FileConfig, rows: Columns, cells: Sequence[Mapping[str, Any]], what: str) -> None:
    """``--output``: the columns as they were, and beside them what was found; says how many ``what`` there are."""
    assert config.output is not None
    write_predictions(Path(config.output), rows, cells, config.excel_safe)
    say(f"{len(cells)} {what} written to {printable(config.output)}")
