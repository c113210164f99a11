"""What a run says to the person at the terminal: one line at a time, safe to print. Imports no torch, so that errors and
settings can use it first.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def note(message: str) -> None:
    """One visible line on stderr about a decision made for the user; above a bar, and of several ranks rank 0 says it."""
    from tqdm import tqdm

    if is_main_process():
        tqdm.write(one_line(message), file=sys.stderr)
        sys.stderr.flush()


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


def is_main_process() -> bool:
    """Is this rank 0, or the only process? Known before torch is imported: torchrun says it in the environment.

    RANK counts with a WORLD_SIZE that has room for it only: one that was left over must not make a process mute.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return not (rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size))


def say(line: str) -> None:
    """Print a line on stdout; names of files in it may hold anything."""
    print(printable(line))


def quiet_libraries() -> None:
    """No bars and reports of the libraries between our own lines; their errors still come as exceptions."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
