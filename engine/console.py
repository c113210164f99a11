"""What a run says to the person at the terminal: one line at a time, safe to print. Imports no torch, so that errors and
settings can use it first.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TextIO

HEARS: ContextVar[Callable[[str], None] | None] = ContextVar("hears", default=None)  # notes, in place of the terminal


def note(message: str) -> None:
    """One visible line on stderr about a decision made for the user; above a bar, and of several ranks rank 0 says it.

    In a notebook it stands on stdout: what is on stderr looks there as if something had failed.
    """
    if (hear := HEARS.get()) is not None:
        hear(message)
    elif is_main_process():
        say_above(one_line(message), sys.stderr if notebook() is None else sys.stdout)


@contextmanager
def notes_heard_by(hear: Callable[[str], None] | None) -> Iterator[None]:
    """What is noted in here, by this thread, goes to ``hear``; None: to the terminal."""
    token = HEARS.set(hear)
    try:
        yield
    finally:
        HEARS.reset(token)


@contextmanager
def kept_notes() -> Iterator[list[str]]:
    """What is noted in here is not said but kept: there is nobody at the terminal whom it concerns."""
    found: list[str] = []
    with notes_heard_by(found.append):
        yield found


LONGEST_LINE = 800


def printable(text: str) -> str:
    """One line for the terminal: no line breaks, and nothing that could drive it (ESC, bidirectional overrides ...)."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """``printable``, cut in the middle if it is very long: the beginning says what is wrong, the end how to mend it."""
    line, half = printable(text), LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def shown(value: Any, width: int = 100) -> str:
    """A text for the terminal: no line breaks, no control characters, cut."""
    text = printable(" | ".join(value) if isinstance(value, tuple) else str(value))
    return text if len(text) <= width else text[: width - 3] + "..."


def counted(number: float, noun: str) -> str:
    """``1 epoch``, ``2 epochs``, ``0.5 epochs``."""
    return f"{number:.4g} {noun}" + ("" if number == 1 else "s")


def notebook() -> Any:
    """IPython's shell if it belongs to a kernel (Jupyter, Colab, VS Code ...), which shows HTML and changes it in place.

    None elsewhere, in an IPython at a terminal, too. IPython is asked where it runs already, and never imported.
    """
    asked = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return shell if getattr(shell := asked(), "kernel", None) is not None else None


def progress_bar(rows: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> Any:
    """A bar of tqdm over ``rows``, or one that is moved by ``update``: a widget in a notebook that has ipywidgets, else text.

    There is none where nobody sees it (no terminal and no notebook), and none if ``hidden``.
    """
    from tqdm.auto import tqdm

    unseen = None if notebook() is None else False  # None: tqdm looks for a terminal
    return tqdm(rows, disable=hidden or unseen, **options)


def is_main_process() -> bool:
    """Is this rank 0, or the only process? Known before torch is imported: torchrun says it in the environment.

    RANK counts with a WORLD_SIZE that has room for it only: one that was left over must not make a process mute.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return not (rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size))


def say(line: str, *, flush: bool = False, end: str = "\n") -> None:
    """Print a line on stdout, with its tabs, and without what could drive the terminal. All output goes through here."""
    print("\t".join(printable(part) for part in line.split("\t")), flush=flush, end=end)


def say_above(text: str, stream: TextIO) -> None:
    """Lines on stdout or stderr, above a bar where there is one."""
    from tqdm import tqdm

    tqdm.write(printable_lines(text), file=stream)
    stream.flush()


def say_lines(text: str) -> None:
    """``say`` for each line of a text that has several."""
    for line in text.split("\n"):
        say(line)


def say_part(text: str) -> None:
    """Print a part of a text that goes on, at once."""
    *lines, last = text.split("\n")
    for line in lines:
        say(line)
    say(last, flush=True, end="")


def printable_lines(text: str) -> str:
    """``printable`` for each line of a text that has several."""
    return "\n".join(map(printable, text.split("\n")))


class Unfailing:
    """A text stream whose writes raise nothing: once its reader has gone or its disk is full, the rest is left out.

    ``lost`` says why; None: all has been written. What its encoding cannot hold is escaped.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.lost = stream, getattr(stream, "lost", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        self._try(lambda: self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, do: Any) -> None:
        if self.lost is None:
            try:
                do()
            except OSError as error:
                self.lost = error
            except ValueError:  # closed, by whoever has called from Python
                self.lost = OSError(errno.EPIPE, "it is closed")


@contextmanager
def unfailing_output() -> Iterator[None]:
    """What is printed in here cannot end the run: who asks ``lost_output`` may end it well."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Unfailing(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def lost_output() -> OSError | None:
    """Why nothing that is printed on stdout arrives any more; None: as far as is known it does."""
    return getattr(sys.stdout, "lost", None)


@contextmanager
def prepared_output() -> Iterator[None]:
    """Around a command. Characters that the terminal's encoding has not are escaped; a closed stream is /dev/null.

    Else the first file that is opened would get its number, and what the libraries print would stand in it. In the end what
    stdout does not take is let go: Python would complain about it. Before torch is imported, which reads its level then.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Its C++ warns of memory that it does not know while --profile counts it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(line: str) -> None:
    """An error's line on stderr, if anybody listens; "": nothing."""
    with suppress(OSError):
        print(line, file=sys.stderr, end="\n" if line else "")


def quiet_libraries() -> None:
    """No bars and reports of the libraries between our own lines; their errors still come as exceptions.

    What they warn of may quote a file, and is printed as all else is.
    """
    import datasets
    import transformers

    warnings.formatwarning = lambda message, category, *_, **__: one_line(f"{category.__name__}: {message}") + "\n"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
