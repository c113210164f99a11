"""The parser of the bench's commands: help that keeps its lines, no abbreviations, and one line for a mistake."""

from __future__ import annotations

import difflib
import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from engine.errors import UsageError


class Parser(ArgumentParser):
    """Raises UsageError where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the flags)")

    def parse_args(self, argv: Sequence[str]) -> Namespace:  # type: ignore[override]
        """Raises UsageError for an unknown flag first: argparse would rather speak of the value behind it."""
        flags = list(self._option_string_actions)
        for flag in (argument.split("=")[0] for argument in argv):
            if flag.startswith("--") and flag not in flags:
                near = difflib.get_close_matches(flag, flags, n=1)
                self.error(f"unknown argument {flag!r}" + (f": did you mean {near[0]}?" if near else ""))
        return super().parse_args(argv)


def make_parser(name: str, description: str | None) -> Parser:
    """Of ``python -m bench NAME``; its module's docstring is the description."""
    return Parser(
        prog=f"python -m bench {name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def one_of(known: Collection[str]) -> Callable[[str], str]:
    """A type for arguments that may be left out: argparse's own ``choices`` cannot be, with nargs="*"."""

    def check(value: str) -> str:
        if value not in known:
            raise ArgumentTypeError(f"{value!r} is none of {', '.join(known)}")
        return value

    return check


def at_least(least: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """A type for numbers: ``kind``, and not below ``least``; neither NaN nor infinity."""

    def check(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            what = "a whole number" if kind is int else "a number"
            raise ArgumentTypeError(f"must be {what} of at least {least}, found {text!r}")
        return value

    return check
