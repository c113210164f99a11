"""``python run.py predict``: texts or a file; and the few inputs that a task tries when training has ended.

A file may be larger than the memory: it is predicted in windows (windows.py), by one process or several (workers.py), and what
is written can be gone on from (partial.py).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.flags import PredictConfig, changes_in, with_model
from engine.commands.in_windows import Windows, Work, depends_on, each_note_once, predict_whole, predict_windows
from engine.commands.output import TABLES, check_output, check_writable, is_flat, write_predictions
from engine.commands.partial import Partial
from engine.commands.windows import Window, survey
from engine.commands.workers import refuse_no_fork
from engine.console import is_main_process, note, printable, say, shown
from engine.data.files import pieces_named
from engine.data.form import Columns, Form
from engine.data.places import parts_of
from engine.errors import DataError, UsageError
from engine.finished import Find, open_model
from engine.task import Task

if TYPE_CHECKING:
    from torch import nn

    from engine.data.collate import Layout

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
    columns = [value for name, value in changes_in(config).items() if name.endswith("_column") and value is not None]
    columns += [config.id_column] if config.id_column is not None else []
    if config.input and config.input != STDIN:
        return predict_file(config, config.input, find, columns)
    if columns:
        raise UsageError(f"a column, {columns[0]!r}, can only be named with --input FILE")
    for flag, given in (("--resume", config.resume), ("--num-processes", config.num_processes)):
        if given:
            raise UsageError(f"{flag} is for --input FILE, which can be read again: leave it out")
    rows: Columns = {"text": list(texts) if config.input != STDIN else lines_of_stdin(config.encoding)}
    if config.output:
        check_writable(rows, Path(config.output), "standard input" if config.input else "the texts")
    task, model, layout = opened(config, find, None)
    inputs = task.inputs_of(rows) if config.input else task.inputs_typed(texts)
    predictions = list(task.predict(model, inputs, layout))
    if config.output:
        path = Path(config.output)
        cells = [task.columns_of(prediction, is_flat(path)) for prediction in predictions]
        write_predictions(path, rows, cells, config.excel_safe)
        say(f"{len(cells)} predictions written to {printable(config.output)}")
    else:
        for text, prediction in zip(inputs, predictions, strict=True):
            say(line_of(task, text, prediction))


def predict_file(config: PredictConfig, name: str, find: Find, columns: Sequence[str]) -> None:
    """``--input`` a file. ``columns``: those that it must have, for the user has named them."""
    path = Path(config.output) if config.output else None
    if config.num_processes:
        refuse_no_fork()
    partial = Partial(path) if path else None
    left = partial.check(config.resume) if partial else None
    if partial and left:  # refused before anything is read that takes long
        partial.refuse_others(left, depends_on(config))
        if not partial.rows.exists():
            partial.forget()
            return say(f"{left.rows} predictions written to {printable(str(path))}")

    def pieces() -> Iterator[Columns]:
        return pieces_named(name, "--input", Form.of(config))

    def check(window: Window) -> None:
        if path:
            check_writable(window.rows, path, name, window.first)

    with each_note_once():
        found = survey(pieces, name=name, id_column=config.id_column or "id", wanted=columns, check=check)
        task, model, layout = opened(config, find, folder_of(name))
        if config.num_processes and next(model.parameters()).device.type != "cpu":
            raise UsageError("--num-processes is for processors, and the model computes on another device: add --device cpu")
        windows = Windows(pieces, task.predict_rows, found)
        work = Work(task, model, layout, path, found.names, config.excel_safe, "" if windows.are_one else name)
        if windows.are_one:
            predict_whole(config, path, work, windows)
        else:
            for window in windows:  # what is wrong in the last of a million rows is said before the first is predicted
                work.inputs_of(window)
            predict_windows(config, work, windows, partial, left)


def opened(config: PredictConfig, find: Find, folder: Path | None) -> tuple[Task[Any], nn.Module, Layout]:
    """The model that the command names."""
    return open_model(config.model, find, device=config.device, task=config.task, changes=changes_in(config), folder=folder)


def line_of(task: Task[Any], text: Any, prediction: Mapping[str, Any]) -> str:
    """For the terminal."""
    return f"{printable(task.describe(prediction))}\t{shown(text)}"


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
