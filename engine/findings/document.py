"""findings.json: what an evaluation has found out about a run beside its figures, for the report.

It is written beside errors.csv by ``evaluate``, and drawn by artifacts/report.py as long as it is not older than run.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import atomic
from engine.checked import expect, is_a, known, parse_object, read_bytes
from engine.errors import DataError
from engine.findings.slices import Slice

NAME = "findings.json"
MOST_CURVES, MOST_POINTS, MOST_SLICES = 50, 100, 200


@dataclass(frozen=True)
class Findings:
    """``about``: which rows they are of, in words. ``curves``: of reliability, by name: in each bin of confidence how many
    there are, the sum of their confidences, and how many are so. ``learned``: those before and after what ``--calibrate`` has
    learned, of rows that did not choose it. ``slices``: of the evaluated rows, parts and words, the least probable first."""

    about: str = ""
    curves: Mapping[str, list[list[float]]] = field(default_factory=dict)
    learned: Mapping[str, list[list[float]]] = field(default_factory=dict)
    slices: Sequence[Slice] = ()

    def to_json(self) -> dict[str, Any]:
        slices = [dataclasses.asdict(each) for each in self.slices[:MOST_SLICES]]
        return {"about": self.about, "curves": self.curves, "learned": self.learned, "slices": slices}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Findings:
        """Raises ValueError for what ``to_json`` does not write."""
        curves, learned = (checked_curves(expect(found, name, dict, default={})) for name in ("curves", "learned"))
        slices = expect(found, "slices", list, default=[])
        if len(slices) > MOST_SLICES:
            raise ValueError(f"it has {len(slices)} slices")
        return cls(expect(found, "about", str, default=""), curves, learned, [checked_slice(each) for each in slices])


def checked_curves(curves: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what are none."""
    if len(curves) > MOST_CURVES:
        raise ValueError(f"it has {len(curves)} curves")
    for name, bins in curves.items():
        is_table = isinstance(bins, list) and len(bins) <= MOST_POINTS
        if not is_table or not all(isinstance(row, list) and len(row) == 3 and all(map(is_number, row)) for row in bins):
            raise ValueError(f"the curve {name[:60]!r} is no table of three numbers a row")
    return curves


def checked_slice(found: Any) -> Slice:
    """Raises ValueError for what is none."""
    if not isinstance(found, dict):
        raise ValueError("a slice is no object")
    for name in ("kind", "value"):
        expect(found, name, str)
    for name, least in (("rows", 1), ("wrong", 0)):
        expect(found, name, int, least=least)
    for name in ("rest", "p", "adjusted"):
        if not 0 <= expect(found, name, float) <= 1:
            raise ValueError(f"{name} of a slice cannot be {found[name]}")
    if found["wrong"] > found["rows"]:
        raise ValueError("a slice has more wrong rows than rows")
    return Slice(**known(Slice, found))


def is_number(value: Any) -> bool:
    return is_a(value, float) and value >= 0


def write(directory: Path, findings: Findings) -> None:
    """Raises OSError."""
    atomic.write(directory / NAME, json.dumps(findings.to_json(), indent=1, allow_nan=False) + "\n")


def read(directory: Path) -> Findings | None:
    """That of a run; None without one, or where it is of a model that was there before. Raises DataError."""
    path = directory / NAME
    try:
        found = Findings.from_json(parse_object(read_bytes(path)))
        return None if path.stat().st_mtime < (directory / "run.json").stat().st_mtime else found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is not what evaluate writes ({error}): remove it, or write it anew") from error
