"""What the advice of --profile is worth: for each line a run that gets it, and the same run with the advice taken.

    python -m bench advice [NAME ...]          real reviews, MiniLM; writes bench/results/advice-cpu.json

A run is profiled once, and has to be told the line. Then both are trained three times, in turn, each in a process of its own,
and their rates are compared pair by pair.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.flags import make_parser, one_of
from bench.machine import RESULTS, ROOT, keep
from engine.errors import ResourceError

COMMON = "--data sample --max-eval-examples 8 --device cpu --precision fp32"
PAIRS, PROFILED = 3, 3
RATE = "train_samples_per_second"


@dataclass(frozen=True)
class Case:
    """``said``: part of the line; ``run``: flags of both runs; ``before``: of the one that is told; ``taken``: of the other."""

    said: str
    run: str
    before: str
    taken: str


CASES = {
    "padding": Case(
        "are padding", "--task imdb --max-train-examples 256 --batch-size 8 --max-steps 6",
        "--batching padded", "--batching packed",
    ),
    "random numbers": Case(
        "drawing dropout's random numbers", "--task imdb --max-train-examples 640 --max-length 64 --max-steps 24",
        "--batching padded", "--batching packed",
    ),
    "update": Case(
        "clipping and optimizer take", "--task imdb --max-train-examples 200 --max-length 32",
        "--batch-size 1 --max-steps 60", "--batch-size 16 --max-steps 12",
    ),
    "data": Case(
        "a step waits for its batch", "--task image-classification --max-train-examples 1000 --max-steps 40",
        "--workers 0", "--workers 2",
    ),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = make_parser("advice", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", type=one_of(CASES), help=", ".join(CASES))
    options = parser.parse_args(argv)
    path = RESULTS / "advice-cpu.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in options.names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measured(CASES[name], Path(folder))
        keep(path, {"rows": rows})
        print(f"{name:<16} {rows[name]['line']}\n{'':<16} {table_row(rows[name])}", flush=True)
    return 0 if all(row["line"] for row in rows.values()) else 1


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """The line that was said ("" for none), and the rates of both ways in examples a second."""
    train(f"{case.run} {case.before}", folder, "--profile", str(PROFILED))
    profile = json.loads((folder / "run/profile/profile.json").read_text())
    line = next((line for line in profile["advice"] if case.said in line), "")
    without, taken = [], []
    for _ in range(PAIRS):
        without.append(train(f"{case.run} {case.before}", folder))
        taken.append(train(f"{case.run} {case.taken}", folder))
    row = {"run": case.run, "before": case.before, "taken": case.taken, "line": line}
    rates = {RATE: {"without": without, "taken": taken}}
    return row | rates | {"times": sorted(b / a for a, b in zip(without, taken, strict=True))}


def train(flags: str, folder: Path, *more: str) -> float:
    """Examples a second of one run. Raises ResourceError."""
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        *flags.split(),
        *COMMON.split(),
        *more,
        "--overwrite",
        "--output-dir",
        "run",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise ResourceError(f"{' '.join(command[1:])} ended with exit code {done.returncode}: {last}")
    rate: float = json.loads((folder / "run/run.json").read_text())["metrics"][RATE]
    return rate


def table_row(row: dict[str, Any]) -> str:
    """The ratio, and the smallest and largest of the pairs."""
    times = row["times"]
    return f"`{row['taken']}`: {statistics.median(times):.2f} [{times[0]:.2f} - {times[-1]:.2f}] times the examples a second"
