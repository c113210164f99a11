"""What a lesson is: a claim about Trainer, an experiment that measures it, and the line of ours that does it in the open.

An experiment runs Trainer, or the recipe that is usual with it, beside our loop on a model made for it in memory, and
checks its own claim against what it measured: with another version of Trainer the claim may have become wrong. Next:
toys.py, which the experiments are made of; command.py, which runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from engine.errors import UserError


class ClaimError(UserError):
    """A lesson's claim does not hold with the versions installed."""

    exit_code = 1


@dataclass(frozen=True)
class Finding:
    """What an experiment came to.

    ``holds``: is the claim true? ``said``: the finding in a sentence with its numbers, which is the picture's title too.
    ``table``: rows of cells, the heading first. ``draw``: puts the picture on a pair of matplotlib axes. ``note``: what else
    the reader should know.
    """

    holds: bool
    said: str
    table: Sequence[Sequence[str]]
    draw: Callable[[Any], None]
    note: str = ""


@dataclass(frozen=True)
class Lesson:
    """``hides``: the claim. ``ours``, ``theirs``: file and a piece of the line that does it here, and that hides it there.

    ``theirs`` names a file under site-packages.
    """

    name: str
    hides: str
    ours: tuple[str, str]
    theirs: tuple[str, str]
    experiment: Callable[[str], Finding]  # of a folder for what Trainer writes


def place(file: str, quote: str) -> str | None:
    """``FILE:LINE`` of the first line that holds ``quote``, so that a pointer stays true when lines move; None without one."""
    for number, line in enumerate(path_of(file).read_text(encoding="utf-8").splitlines(), start=1):
        if quote in line:
            return f"{file}:{number}"
    return None


def path_of(file: str) -> Path:
    """Of a file of this project, or of an installed package (``transformers/trainer.py``)."""
    if (ROOT / file).is_file():
        return ROOT / file
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{file} is neither here nor in an installed package")
    return Path(spec.origin).parent / rest
