"""rows.json: of each evaluated row its loss, and whether it was right, so that two models are compared row by row.

``evaluate --rows`` writes it, and so does ``sweep`` for each of its runs; ``compare`` reads it. Next: paired.py, the tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import atomic
from engine.checked import expect, parse_object, read_bytes
from engine.data.batch import Batch
from engine.errors import DataError
from engine.task import Examples, Judge, Task

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "rows.json"
MOST_SETS = 100
CHUNK = 1000  # rows that are hashed at a time


@dataclass(frozen=True)
class RowFigures:
    """Of ``number`` = N rows, in order. ``data``: a hash, the same for the same rows alone. ``loss``: [N] float64, whose mean
    is the figure "loss" (of rows with several items, each row's share of it times N); None: a row has none of its own.
    ``right``: [N] bool; None: rows are not right or wrong."""

    data: str
    number: int
    loss: np.ndarray | None = None
    right: np.ndarray | None = None

    def __len__(self) -> int:
        return self.number

    def of(self, figure: str) -> np.ndarray | None:
        """[N] float64: "loss" or "accuracy"; None: it is not known row by row."""
        found = self.loss if figure == "loss" else self.right
        return None if found is None else found.astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "number": self.number,
            "loss": None if self.loss is None else [each if math.isfinite(each) else None for each in self.loss.tolist()],
            "right": None if self.right is None else self.right.astype(int).tolist(),
        }

    @classmethod
    def from_json(cls, found: Any) -> RowFigures:
        """Raises ValueError for what ``to_json`` does not write."""
        if not isinstance(found, dict):
            raise ValueError("a set is no object")
        loss, right = (expect(found, name, list, optional=True) for name in ("loss", "right"))
        for name, cells in (("loss", loss), ("right", right)):
            kinds = (int, float, type(None)) if name == "loss" else (int,)
            if any(isinstance(cell, bool) or not isinstance(cell, kinds) for cell in cells or ()):
                raise ValueError(f"{name} holds something else than numbers")
        number = expect(found, "number", int, least=0)
        if any(cells is not None and len(cells) != number for cells in (loss, right)):
            raise ValueError(f"loss, or right, is not of {number} rows")
        return cls(
            expect(found, "data", str),
            number,
            None if loss is None else np.array([math.nan if each is None else each for each in loss], dtype=np.float64),
            None if right is None else np.array(right, dtype=bool),
        )


class RowLook:
    """Gathers the figures of each row, batch by batch, of one row each where ``task`` adds up over rows."""

    def __init__(self, task: Task[Any], examples: Examples, table: Dataset | None, judge: Judge | None):
        self.task, self.examples, self.table, self.judge = task, examples, table, judge
        self.sums = np.full(len(examples), np.nan)
        self.items = np.zeros(len(examples), dtype=np.int64)

    def update(self, outputs: Any, batch: Batch) -> None:
        if self.task.additive and len(batch.keys) == 1:
            row = batch.keys[0][1]
            self.sums[row], self.items[row] = float(self.task.loss(outputs, batch)), batch.num_items

    def found(self) -> RowFigures:
        has_losses = self.task.additive and self.items.sum() > 0 and not (np.isnan(self.sums) & (self.items > 0)).any()
        loss = self.sums * (len(self.sums) / self.items.sum()) if has_losses else None
        right = self.judge.right() if self.judge is not None else None
        return RowFigures(hash_of(self.examples, self.table), len(self.sums), loss, right)


def hash_of(examples: Examples, table: Dataset | None) -> str:
    """Of evaluated rows: the cells of their table; the tokens where an example is no row of it, or there is none."""
    digest = blake2b(digest_size=16)
    if table is None or len(table) != len(examples):
        digest.update(examples.fingerprint().encode())
    for start in range(0, len(table) if table is not None else 0, CHUNK):
        assert table is not None
        digest.update(repr(table[start : start + CHUNK]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def dumps(sets: Mapping[str, RowFigures]) -> str:
    """The text of rows.json."""
    return json.dumps({"sets": {name: each.to_json() for name, each in sets.items()}}, allow_nan=False) + "\n"


def write(path: Path, sets: Mapping[str, RowFigures]) -> None:
    """Raises OSError."""
    atomic.write(path, dumps(sets))


def read(directory: Path) -> dict[str, RowFigures]:
    """Those of a run; {} without, or where they are of a model that was there before. Raises DataError."""
    path = directory / NAME
    try:
        found = parse_object(read_bytes(path))
        if path.stat().st_mtime < (directory / "run.json").stat().st_mtime:
            return {}
        sets = expect(found, "sets", dict)
        if len(sets) > MOST_SETS:
            raise ValueError(f"it has {len(sets)} sets")
        return {name: RowFigures.from_json(each) for name, each in sets.items()}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is not what evaluate --rows writes ({error}): remove it, or write it anew") from error


def same_rows(all_of: Sequence[RowFigures]) -> bool:
    """Are they figures of the same rows?"""
    return len({(each.data, each.number) for each in all_of}) == 1
