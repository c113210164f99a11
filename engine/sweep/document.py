"""The directory of a sweep, sweep.json in it, and the table as CSV.

sweep.json says what was asked for and, with the status "finished", what was chosen. It is written anew after each run.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine import VERSION, atomic
from engine.artifacts.directory import is_leftover
from engine.checked import expect, parse_object, read_bytes
from engine.errors import UsageError
from engine.findings.paired import Paired
from engine.settings.fields import as_json, differences
from engine.sweep.choice import Candidate, Figure, Reported
from engine.sweep.plan import Plan
from engine.sweep.runs import Outcome

NAME, TABLE, PAGE, TRIALS = "sweep.json", "sweep.csv", "sweep.html", "trials.jsonl"
FORMAT = 1
Tests = Mapping[int, tuple[Paired, float | None]]  # by place: beside the best, and Holm's p


def claim(plan: Plan) -> None:
    """May this sweep write here? Raises UsageError with the way in."""
    directory = plan.directory
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"--output-dir {directory}: {path} is a file")
    if (directory / "run.json").exists():
        raise UsageError(f"--output-dir {directory} holds a run, and a sweep makes a directory of its own: choose another")
    if not (directory / NAME).exists():
        if directory.is_dir() and not all(map(is_leftover, directory.iterdir())):
            raise UsageError(f"--output-dir {directory} is not empty and holds no sweep: choose another")
        directory.mkdir(parents=True, exist_ok=True)
        return
    try:
        before = expect(parse_object(read_bytes(directory / NAME)), "asked", dict)
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory / NAME} is not a sweep's ({error}): choose another --output-dir") from error
    if changed := differences(before, as_json(plan.asked()), *plan.kinds):
        raise UsageError(f"{directory} holds a sweep with other settings ({'; '.join(changed)}): choose another --output-dir")


@dataclasses.dataclass(frozen=True)
class Result:
    """What stands in sweep.json at the end. ``lines``: as they were said."""

    candidates: Sequence[Candidate]
    figure: Figure
    tests: Tests
    best: Candidate
    chosen_on: int
    report: Reported
    command: str
    lines: Sequence[str]


def write(plan: Plan, outcomes: Mapping[str, Outcome], result: Result | None = None) -> None:
    """sweep.json, which is there in full or as it was before."""
    found: dict[str, Any] = {"format": FORMAT, "version": VERSION, "status": "finished" if result else "running"}
    found |= {"asked": plan.asked(), "runs": {name: dataclasses.asdict(each) for name, each in outcomes.items()}}
    if result is not None:
        report = dataclasses.asdict(result.report) | {"mean": result.report.mean}
        found |= {
            "figure": dataclasses.asdict(result.figure),
            "settings": table(plan, result),
            "best": {"setting": dict(result.best.setting.values), "chosen_on": result.chosen_on, "command": result.command},
            "reported": report,
            "said": list(result.lines),
        }
    atomic.write(plan.directory / NAME, json.dumps(finite(found), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """NaN and infinity are not JSON: they become None."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(plan: Plan, result: Result) -> list[dict[str, Any]]:
    """A row for each setting, in the order of the candidates."""
    rows = []
    for place, each in enumerate(result.candidates):
        test, adjusted = result.tests.get(place, (None, None))
        row: dict[str, Any] = {**{name: each.setting.values.get(name) for name in plan.grid}}
        row |= {"figure": result.figure.name, "mean": each.mean if each.runs else None, "standard_error": each.error}
        row |= {"runs": len(each.runs), "values": each.values}
        row |= {"seconds_a_run": sum(run.seconds for run in each.runs.values()) / len(each.runs) if each.runs else None}
        row |= {"is_best": each is result.best, "less_best": test and test.difference}
        row |= {"error_of_difference": test and test.error, "p": test and test.p, "p_holm": adjusted}
        row |= {"test": test.test if test else "", "pairs": test.number if test else None, "note": each.dropped}
        rows.append(row)
    return rows


def write_table(plan: Plan, result: Result) -> None:
    """sweep.csv."""
    rows = table(plan, result)
    with atomic.replacing(plan.directory / TABLE) as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"values": " ".join(map(repr, row["values"]))} for row in rows)
