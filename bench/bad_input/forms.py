"""Short forms for the rows that are nothing but command lines; ``case.row`` is for those that prepare or check more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.bad_input.case import Attempts, Place, row

HEADER = "text,label\n"
ROWS_OF_DATA = HEADER + "".join(f"w{i} w{i % 7},{'ab'[i % 2]}\n" for i in range(16))


def each(
    number: int | str, what: str, code: int, words: str, lines: Callable[[Place], Sequence[list[str]]], **marks: Any
) -> None:
    """A row of command lines, all of which must get the same."""

    def attempts(at: Place) -> Attempts:
        for line in lines(at):  # noqa: UP028 - it is sent results, which yield from would pass on
            yield line

    row(number, what, code, words, **marks)(attempts)


def flags(number: int | str, what: str, words: str, *values: str) -> None:
    """A row of flags that are refused."""
    each(number, what, 2, words, lambda at: [at.train(*value.split(" ")) for value in values])


def labels(number: int | str, what: str, words: str, *columns: Sequence[Any], more: Sequence[str] = ()) -> None:
    """A row of label columns that are refused."""
    each(number, what, 3, words, lambda at: [at.on_labels(column, *more) for column in columns])


def data(number: int | str, what: str, words: str, name: str, *contents: str | bytes, code: int = 3) -> None:
    """A row of files that are refused."""
    each(number, what, code, words, lambda at: [at.on(name, content) for content in contents])
