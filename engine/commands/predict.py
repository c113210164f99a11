"""``python run.py predict``: texts or a file; and the few inputs that a task tries when training has ended."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.commands.flags import PredictConfig, changes_in, with_model
from engine.commands.output import TABLES, check_output, check_writable, is_flat, write_predictions
from engine.console import is_main_process, note, printable, say, shown
from engine.data.files import read_named
from engine.data.form import Columns, Form, choose
from engine.data.places import parts_of
from engine.errors import DataError, UsageError
from engine.finished import Find, open_model
from engine.task import Task

STDIN = "-"  # in place of a file


def predict(config: PredictConfig, texts: Sequence[str], find: Find) -> None:
    """The command: texts given as arguments, or a file. Prints, or writes ``--output``."""
    config, texts = with_model(config, texts, 'predict runs/mine "a text"')
    if not texts and not config.input:
        raise UsageError(
            f"no text to predict with {config.model}: give some behind the model, or --input FILE (- for lines of text)"
        )
    if texts and config.input:
        raise UsageError("give either texts to predict, or --input FILE")
    check_output("--output", config.output, TABLES, inputs=[config.input], model=config.model)
    changes = changes_in(config)
    columns = [value for name, value in changes.items() if name.endswith("_column") and value is not None]
    columns += [config.id_column] if config.id_column is not None else []
    rows: Columns = {"text": list(texts) if config.input != STDIN else lines_of_stdin(config.encoding)}
    if config.input and config.input != STDIN:
        rows = read_named(config.input, "--input", Form.of(config))
        choose(config.input, list(rows), [name for name in columns if name not in rows])
        id_column = config.id_column or "id"
        refuse_repeated(rows.get(id_column, []), config.input)
    elif columns:
        raise UsageError(f"a column, {columns[0]!r}, can only be named with --input FILE")
    if config.output:
        where = {None: "the texts", STDIN: "standard input"}.get(config.input, config.input)
        check_writable(rows, Path(config.output), where or "")
    folder = folder_of(config.input) if config.input and config.input != STDIN else None
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, changes=changes, folder=folder)
    inputs = task.inputs_of(rows) if config.input else task.inputs_typed(texts)
    predictions = list(task.predict(model, inputs, layout))
    if config.output:
        path = Path(config.output)
        cells = [task.columns_of(prediction, is_flat(path)) for prediction in predictions]
        write_predictions(path, rows, cells, config.excel_safe)
        say(f"{len(predictions)} predictions written to {printable(config.output)}")
    else:
        for text, prediction in zip(inputs, predictions, strict=True):
            say(f"{printable(task.describe(prediction))}\t{shown(text)}")


def folder_of(name: str) -> Path:
    """That of the files, which what stands in them may be relative to. Raises UsageError for files of several folders."""
    files = [file for part in parts_of(name, "--input") for file in part.files]
    folders = {file if file.is_dir() else file.parent for file in files}
    if len(folders) > 1:
        raise UsageError(f"--input {name} names files in {len(folders)} folders: predict those of one at a time")
    return folders.pop()


def lines_of_stdin(encoding: str | None) -> list[str]:
    """A text a line, as in a .txt file. Raises DataError, UsageError."""
    try:
        lines = io.TextIOWrapper(sys.stdin.buffer, encoding=encoding or "utf-8-sig", newline=None).read().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not {encoding or 'UTF-8'}: {error}; name its encoding with --encoding") from error
    except LookupError as error:
        raise UsageError(f"--encoding {encoding}: there is no such encoding") from error
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise DataError("standard input has no line")
    return lines


def refuse_repeated(ids: Sequence[Any], name: str) -> None:
    """Two predictions of one id could not be told apart. Raises DataError."""
    first: dict[str, int] = {}
    for row, value in enumerate(ids, start=1):
        if value is not None and (before := first.setdefault(str(value), row)) != row:
            raise DataError(
                f"{name} row {row}: id {str(value)!r} stands in row {before}, too. "
                "Give each row its own, or name another column with --id-column"
            )


def try_examples(task: Task[Any], directory: Path, find: Find, device: str, name: str) -> None:
    """What a tutorial does last: load what was saved, and predict a few inputs. ``name``: the task's, as the user gave it.

    The run is finished and saved by now, so nothing here fails it: what does not work is a note.
    """
    if not task.try_it or not is_main_process():
        return
    try:
        saved, model, layout = open_model(str(directory), find, device=device, task=name)
        predictions = list(saved.predict(model, task.try_it, layout))
    except Exception as error:
        return note(f"the model is saved; its examples could not be tried: {type(error).__name__}: {error}")
    for text, prediction in zip(task.try_it, predictions, strict=True):
        say(f"{printable(saved.describe(prediction))}\t{shown(text)}")
