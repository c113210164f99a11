"""findings.json: what an evaluation has found out about a run beside its figures, for the report.

It is written beside errors.csv by ``evaluate``, and drawn by artifacts/report.py as long as it is not older than run.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import atomic
from engine.checked import expect, is_a, parse_object, read_bytes
from engine.errors import DataError

NAME = "findings.json"
MOST_CURVES, MOST_POINTS = 50, 100


@dataclass(frozen=True)
class Findings:
    """``about``: which rows they are of, in words. ``curves``: of reliability, by name: in each bin of confidence how many
    there are, the sum of their confidences, and how many are so. ``learned``: those before and after what ``--calibrate`` has
    learned, of rows that did not choose it."""

    about: str = ""
    curves: Mapping[str, list[list[float]]] = field(default_factory=dict)
    learned: Mapping[str, list[list[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"about": self.about, "curves": self.curves, "learned": self.learned}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Findings:
        """Raises ValueError for what ``to_json`` does not write."""
        curves = [checked_curves(expect(found, name, dict, default={})) for name in ("curves", "learned")]
        return cls(expect(found, "about", str, default=""), *curves)


def checked_curves(curves: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what are none."""
    if len(curves) > MOST_CURVES:
        raise ValueError(f"it has {len(curves)} curves")
    for name, bins in curves.items():
        is_table = isinstance(bins, list) and len(bins) <= MOST_POINTS
        if not is_table or not all(isinstance(row, list) and len(row) == 3 and all(map(is_number, row)) for row in bins):
            raise ValueError(f"the curve {name[:60]!r} is no table of three numbers a row")
    return curves


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
