"""metrics.jsonl read again, whoever wrote it and however long it is: for the model card and the report.

Each line is checked and becomes a record; of many lines some are kept, in even distances, so that a log of a million takes no
more memory, and makes no larger page, than one of some thousands. Next: lines.py, which writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checked import expect, expect_each, open_regular, parse_object
from engine.errors import DataError

KINDS = ("train", "eval", "epoch")
NOT_FIGURES = ("kind", "split", "step", "epoch", "seconds", "ranks")
MOST_KEPT = 2000  # lines of a kind: more than a screen has points
LONGEST_LINE = 64 << 10  # bytes; a line has some hundred


@dataclass(frozen=True)
class LogLine:
    """A line of metrics.jsonl.

    ``values``: its figures, rates and counts by name; None: not finite. ``seconds``: by phase, since the train line before,
    which was ``num_steps`` ago. ``training_loss``: the newest that is logged up to here.
    """

    kind: str
    step: int
    epoch: float
    values: Mapping[str, float | None]
    seconds: Mapping[str, float]
    num_steps: int = 1
    training_loss: float | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> LogLine:
        """Raises ValueError for what a run does not log."""
        kind = expect(found, "kind", str)
        if kind not in KINDS:
            raise ValueError(f"kind cannot be {kind[:60]!r}")
        values = {name: value for name, value in found.items() if name not in NOT_FIGURES}
        expect_each("the line", values, float, optional=True)
        seconds = expect(found, "seconds", dict, default={})
        expect_each("seconds", seconds, float)
        return cls(kind, expect(found, "step", int, least=0), expect(found, "epoch", float), values, seconds)


@dataclass(frozen=True)
class Log:
    """The lines that were kept, in their order, of the ``num_lines`` that the file has."""

    lines: Sequence[LogLine] = ()
    num_lines: int = 0


@dataclass
class Thinned:
    """Of the lines that are added every one, then every second, every fourth ... so that at most MOST_KEPT are kept; and the
    newest."""

    kept: list[tuple[int, LogLine]] = field(default_factory=list)
    newest: tuple[int, LogLine] | None = None
    every: int = 1
    num_lines: int = 0

    def add(self, number: int, line: LogLine) -> None:
        self.newest = number, line
        if self.num_lines % self.every == 0:
            self.kept.append(self.newest)
        self.num_lines += 1
        if len(self.kept) > MOST_KEPT:
            self.kept, self.every = self.kept[::2], 2 * self.every

    def lines(self) -> list[tuple[int, LogLine]]:
        return self.kept + ([self.newest] if self.newest is not None and self.newest != self.kept[-1] else [])


def read_log(path: Path) -> Log:
    """metrics.jsonl; no lines where it is not there. The last may be half written while a run goes on: it is left out.

    Raises DataError with the number of a line that no run writes.
    """
    by_kind = {kind: Thinned() for kind in KINDS}
    number, before, loss = 0, 0, None
    try:
        with open_regular(path) as stream:
            while (text := stream.readline(LONGEST_LINE)).endswith(b"\n") or len(text) == LONGEST_LINE:
                number += 1
                if not text.endswith(b"\n"):
                    raise ValueError(f"it is longer than {LONGEST_LINE >> 10} KiB")
                found = LogLine.from_json(parse_object(text))
                if found.kind != "eval":
                    loss = found.values.get("loss")
                since = max(found.step - before, 1)
                line = LogLine(found.kind, found.step, found.epoch, found.values, found.seconds, since, loss)
                before = found.step if found.kind == "train" else before
                by_kind[found.kind].add(number, line)
    except FileNotFoundError:
        return Log()
    except ValueError as error:
        raise DataError(f"{path} line {number}: no run logs this ({error}): remove the line, or the file") from error
    kept = sorted((each for thinned in by_kind.values() for each in thinned.lines()), key=lambda each: each[0])
    return Log([line for _, line in kept], number)
