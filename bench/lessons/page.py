"""docs/what-trainer-hides.md: reads its pointers, and writes their line numbers anew.

    python -m bench page

The page is the source: a pointer names a file and quotes a piece of a line; the number between them follows from the quote.
Of a package that is here in another version than the page tells of, the numbers stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version

from bench.flags import make_parser
from bench.lessons.lesson import path_of
from bench.machine import ROOT, page_of

PAGE = ROOT / "docs/what-trainer-hides.md"
POINTER = re.compile(r"^    - (Trainer|here): `([^`:]+):(\d+)` `([^`]+)`$", re.MULTILINE)


@dataclass(frozen=True)
class Pointer:
    """A line of the page: whose, which file, which line, and what stands there."""

    whose: str
    file: str
    line: int
    quote: str

    def is_of(self, page: str) -> bool:
        """Is the file here in the version that the page tells of?"""
        package = self.file.split("/", maxsplit=1)[0]
        return self.whose == "here" or f"{package} {version(package).split('+')[0]}" in page

    def lines(self) -> list[int]:
        """The numbers of all lines that hold the quote."""
        text = path_of(self.file).read_text(encoding="utf-8")
        return [number for number, line in enumerate(text.splitlines(), start=1) if self.quote in line]


def pointers(page: str) -> list[Pointer]:
    """All of them, in order."""
    return [Pointer(whose, file, int(line), quote) for whose, file, line, quote in POINTER.findall(page)]


def renumbered(page: str) -> str:
    """The page with each number that of the nearest line with the quote. Raises ValueError for a quote that is nowhere."""

    def renumber(match: re.Match[str]) -> str:
        whose, file, line, quote = match.groups()
        pointer = Pointer(whose, file, int(line), quote)
        if not pointer.is_of(page):
            return match[0]
        if not (found := pointer.lines()):
            raise ValueError(f"{file} has no line with {quote!r}")
        return f"    - {whose}: `{file}:{min(found, key=lambda number: abs(number - int(line)))}` `{quote}`"

    return POINTER.sub(renumber, page)


def main(argv: list[str]) -> int:
    make_parser("page", __doc__).parse_args(argv)
    page = page_of(PAGE.name)
    page.write_text(renumbered(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0
