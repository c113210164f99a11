"""A file predicted window by window, by this process or by several: what ``predict`` does with one.

Next: windows.py, which cuts the file; workers.py and partial.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import VERSION
from engine.commands.flags import PredictConfig
from engine.commands.output import Table, is_flat, writing
from engine.commands.partial import Partial, Progress, begun
from engine.commands.windows import Survey, Window, windows_of
from engine.commands.workers import Processes
from engine.console import note, notes_heard_by, printable, progress_bar, say, say_lines, shown
from engine.data.form import Columns
from engine.data.model_files import digest, digests, folder_of, joined
from engine.data.places import parts_of
from engine.data.tables import counting_from
from engine.errors import DataError
from engine.settings.fields import user_path
from engine.settings.own import is_own
from engine.task import Task

if TYPE_CHECKING:
    from torch import nn

    from engine.data.collate import Layout

BETWEEN_NOTES = 60  # seconds, where no terminal shows a bar
NO_EFFECT = ("model", "input", "output", "device", "num_processes", "resume", "debug")  # on what is written, or told otherwise

Asked = tuple[Window, list[str] | None]  # and the columns of the file, where they are known
Done = tuple[list[str], str]  # the columns, and the window's part of the file; or lines for the terminal


OF_ROWS = "rows "  # how a note begins that is about a window


@contextmanager
def each_note_once() -> Iterator[None]:
    """What is noted twice is said once; of notes about windows that differ in their numbers alone, the first."""
    said: set[str] = set()

    def hear(message: str) -> None:
        kind = re.sub(r"\d[\d,.]*", "#", message) if message.startswith(OF_ROWS) else message
        if kind not in said:
            said.add(kind)
            say_note(message)

    with notes_heard_by(hear):
        yield


def say_note(message: str) -> None:
    with notes_heard_by(None):
        note(message)


class Windows:
    """The windows of a file that was surveyed, as often as they are asked for."""

    def __init__(self, pieces: Callable[[], Iterator[Columns]], most_rows: int | None, found: Survey):
        self.pieces, self.most_rows, self.found = pieces, most_rows, found

    @property
    def are_one(self) -> bool:
        """Is all predicted at once?"""
        return self.most_rows is None or (self.found.whole is not None and self.found.num_rows <= self.most_rows)

    def whole(self) -> Window:
        return self.found.whole or next(iter(self))

    def __iter__(self) -> Iterator[Window]:
        return windows_of(self.pieces(), self.most_rows, self.found.names, self.found.first)


class Work:
    """A window predicted, and put into the form in which it stands in the file (``path``), or on the terminal.

    ``where``: what the file is called in notes about some of its rows; "": there is one window.
    """

    def __init__(
        self,
        task: Task[Any],
        model: nn.Module,
        layout: Layout,
        path: Path | None,
        names: list[str],
        excel_safe: bool,
        where: str,
    ):
        self.task, self.model, self.layout = task, model, layout
        self.path, self.names, self.excel_safe, self.where = path, names, excel_safe, where

    @contextmanager
    def counting(self, window: Window) -> Iterator[None]:
        """What is said in here of rows says which they are in the file."""
        heard: list[str] = []
        try:
            with counting_from(window.first), notes_heard_by(heard.append):
                yield
        finally:
            rows = f"{OF_ROWS}{window.first + 1:,} to {window.first + len(window):,} of {self.where}: "
            for message in heard:
                note(f"{rows}{message} (nothing more like this is said)" if self.where else message)

    def inputs_of(self, window: Window) -> list[Any]:
        with self.counting(window):
            return self.task.inputs_of(window.rows)

    def __call__(self, asked: Asked) -> Done:
        window, columns = asked
        inputs = self.inputs_of(window)
        with self.counting(window):
            found = list(self.task.predict(self.model, inputs, self.layout))
        if self.path is None:
            lines = (f"{printable(self.task.describe(each))}\t{shown(text)}" for text, each in zip(inputs, found, strict=True))
            return [], "\n".join(lines)
        cells = [self.task.columns_of(each, is_flat(self.path)) for each in found]
        if len(cells) != len(window):
            raise DataError(f"the task has made {len(cells)} predictions of {len(window)} rows: it must make one of each")
        table = Table(self.path, self.names, self.excel_safe, columns)
        text = table.text(window.rows, cells, header=window.first == 0)
        return table.columns or [], text


def predict_whole(config: PredictConfig, path: Path | None, work: Work, windows: Windows) -> None:
    """All rows at once, written when all is done."""
    window = windows.whole()
    if config.resume or (config.num_processes or 1) > 1:
        note(f"the {len(window):,} rows are predicted together: by one process, from the first on")
    with one_thread() if config.num_processes else nullcontext():
        _, text = work((window, None))
    if path is None:
        return say_lines(text)
    with writing("--output", path) as stream:
        stream.write(text)
    say(f"{len(window)} predictions written to {printable(str(path))}")


@contextmanager
def one_thread() -> Iterator[None]:
    """As each process of ``--num-processes`` has it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_windows(
    config: PredictConfig, work: Work, windows: Windows, partial: Partial | None, left: Progress | None
) -> None:
    """Window by window, each written, and counted, before the next."""
    total = windows.found.num_rows
    if partial is None:
        for _, (_, text) in predicted(config, work, windows, Progress({}, total)):
            say_lines(text)
        return
    start = begun(partial, left, Progress(depends_on(config), total), config.resume)
    with partial.writing(start) as writer:
        for window, (columns, text) in predicted(config, work, windows, start):
            writer.add(text, len(window), columns)
        if writer.progress.rows != total or depends_on(config) != start.of:
            raise DataError(
                f"{config.input} or the model has changed while it was predicted: delete {partial.both}, and begin again"
            )
        writer.finish()
    say(f"{total} predictions written to {printable(str(partial.output))}")


def predicted(config: PredictConfig, work: Work, windows: Windows, start: Progress) -> Iterator[tuple[Window, Done]]:
    """The windows behind those that are done, in order, each with what has been made of it."""
    columns = start.columns
    with Bar(start.rows, start.total) as bar, processes(config, work) as pool:
        waiting = ((window, columns) for window in windows if window.first >= start.rows)
        done = ((asked, work((asked[0], columns))) for asked in waiting) if pool is None else pool.done(waiting)
        for (window, _), found in done:
            columns = columns or found[0]
            if found[0] != columns:  # its rows have others than the first row of all
                found = (work if pool is None else pool.again)((window, columns))  # noqa: PLW2901
            yield window, found
            bar.update(len(window))


@contextmanager
def processes(config: PredictConfig, work: Work) -> Iterator[Processes[Asked, Done] | None]:
    """``--num-processes``; None: this one."""
    with Processes(config.num_processes, work) if config.num_processes else nullcontext() as pool:
        yield pool


class Bar:
    """How far it is: a bar on a terminal; elsewhere a line each minute."""

    def __init__(self, rows: int, total: int):
        self.rows, self.begun_at, self.total = rows, rows, total
        self.start = self.last = time.monotonic()

    def __enter__(self) -> Bar:
        self.bar = progress_bar(total=self.total, initial=self.rows, desc="predicting", unit="row", dynamic_ncols=True,
                            smoothing=0.1, leave=False)  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, rows: int) -> None:
        self.rows += rows
        self.bar.update(rows)
        if self.bar.disable and time.monotonic() - self.last >= BETWEEN_NOTES:
            self.last = time.monotonic()
            rate = (self.rows - self.begun_at) / (self.last - self.start)
            minutes = (self.total - self.rows) / rate / 60
            say_note(f"{self.rows:,} of {self.total:,} rows, {rate:,.0f} a second, {minutes:,.0f} minutes to go")


def depends_on(config: PredictConfig) -> dict[str, str]:
    """What the predictions of a file depend on, to the last bit, on one machine. Raises OSError."""
    import torch
    import transformers

    from engine.distributed.device import choose_device

    folder = folder_of(str(user_path(config.model)), None) or folder_of(config.model, None)
    model = joined([f"{name} {each}" for name, each in digests(folder).items()]) if folder else config.model
    files = [file for part in parts_of(config.input or "", "--input") for file in part.files]
    within = [inner for file in files for inner in (sorted(file.rglob("*")) if file.is_dir() else [file]) if inner.is_file()]
    found = {
        "the model": model,
        "the input": joined([f"{file.name} {digest(file)}" for file in within]),
        "the device": choose_device(config.device).type,
        "the number of threads that compute": str(1 if config.num_processes else torch.get_num_threads()),
        "the version": f"{VERSION}, torch {torch.__version__}, transformers {transformers.__version__}",
    }
    given = {name: value for name, value in vars(config).items() if name not in NO_EFFECT and value not in (None, False)}
    found |= {f"--{name.replace('_', '-')}": str(value) for name, value in given.items()}
    if config.task and is_own(config.task):
        found["the task's file"] = digest(user_path(config.task.rpartition(":")[0]))
    return found
