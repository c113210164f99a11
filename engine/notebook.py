"""What is shown in a notebook: HTML in the output of a cell, which may take the place of what was shown there before.

Every text in it is escaped here. Nothing in it is loaded from elsewhere, and its colours are those of the page around it, light
or dark. Whether there is a notebook is for console.notebook to say; IPython is imported only where it runs already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from engine.console import printable

LINE = "border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.4);"
CELL = f"{LINE} padding: 0.15em 0.9em 0.15em 0; font-variant-numeric: tabular-nums; white-space: nowrap;"


def shown_text(text: Any) -> str:
    """A text as HTML that reads as it stands: one line, nothing that could drive the page."""
    return escape(printable(str(text)))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], first: str = "right") -> str:
    """A table; no line of heads without any. ``first``: where the cells of the first column stand, the others stand right."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        sides = [first] + ["right"] * len(texts)
        each = zip(sides, texts, strict=False)
        shown = (f'<{tag} style="{CELL} text-align: {side}">{shown_text(text)}</{tag}>' for side, text in each)
        return f'<tr style="background: none">{"".join(shown)}</tr>'

    lines = [cells("th", heads)] * bool(heads) + [cells("td", row) for row in rows]
    inside = f'<table style="border-collapse: collapse; font-size: 0.9em; margin: 0">{"".join(lines)}</table>'
    return f'<div style="overflow-x: auto">{inside}</div>'


def as_text(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same, for a front end without HTML."""
    lines = [list(map(printable, line)) for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


class Place:
    """A place in the output of the cell that runs: what is shown there replaces what was."""

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, html: str, text: str) -> None:
        """``text``: for a front end without HTML."""
        shown = {"text/html": html, "text/plain": text}
        if self.handle is None:
            from IPython.display import display

            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


@dataclass(frozen=True)
class Frame:
    """A whole page, shown below a cell: its script sees nothing of the notebook. ``height``: of the frame, in pixels."""

    page: str
    height: int

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{escape(self.page)}"></iframe>'

    def __repr__(self) -> str:
        return "a page, which a notebook shows"
