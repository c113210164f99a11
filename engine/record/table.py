"""The log in a notebook: one table below the cell, changed in place with every line. writers.py opens it, beside the others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from engine.notebook import Place, as_text, table
from engine.record.figures import figure_text, figures_in_line

LEADING = ("step", "epoch", "loss", "grad_norm", "lr", "examples/s")  # columns, whatever is logged first
TRAIN = {  # of a train line: the column, and how a number stands in it
    "loss": ("loss", ".4f"),
    "grad_norm": ("grad_norm", ".3f"),
    "learning_rate": ("lr", ".2e"),
    "examples_per_second": ("examples/s", ".1f"),
}
MOST_ROWS = 40  # shown
SECONDS = 0.2  # at least between two train lines that are shown: nobody sees more, and a server drops what comes too fast


class Table:
    """A row for each step of which something is logged: the train line, the evaluation, the mean loss of the epoch.

    Of a long run, train lines before the newest are left out first, so that the evaluations stand together.
    """

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, str]] = {}
        self.evaluated: set[int] = set()
        self.place, self.num_left_out, self.shown_at = Place(), 0, 0.0

    def on_log(self, step: int, line: Mapping[str, Any]) -> None:
        if line["kind"] == "epoch":
            self.add(line, {"mean of the epoch": figure_text(line["loss"])})
        else:
            numbers = {head: (line[name], form) for name, (head, form) in TRAIN.items()}
            self.add(line, {h: figure_text(n) if n is None else format(n, form) for h, (n, form) in numbers.items()})
        if time.monotonic() - self.shown_at >= SECONDS:
            self.show()

    def on_evaluate(self, step: int, line: Mapping[str, Any]) -> None:
        self.evaluated.add(step)
        self.add(line, {f"eval {name}": figure_text(value) for name, value in figures_in_line(line).items()})
        self.show()

    def on_end(self) -> None:
        if self.rows:
            self.show()

    def add(self, line: Mapping[str, Any], cells: Mapping[str, str]) -> None:
        """Into the row of the line's step, which may be there already."""
        row = self.rows.setdefault(line["step"], {"step": str(line["step"])})
        row |= {"epoch": f"{line['epoch']:.2f}", **cells}
        if len(self.rows) > MOST_ROWS:
            older = list(self.rows)[:-1]
            del self.rows[next((step for step in older if step not in self.evaluated), older[0])]
            self.num_left_out += 1

    def show(self) -> None:
        self.shown_at = time.monotonic()
        heads = list(dict.fromkeys([*LEADING, *(head for row in self.rows.values() for head in row)]))
        rows = [[row.get(head, "") for head in heads] for row in self.rows.values()]
        more = f"{self.num_left_out:,} other rows: metrics.jsonl has all" if self.num_left_out else ""
        self.place.show(table(heads, rows) + f"<div>{more}</div>" * bool(more), as_text(heads, rows) + f"\n{more}" * bool(more))
