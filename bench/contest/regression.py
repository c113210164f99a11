"""Is it slower than it was? Rows of one results file beside those of an older one.

    python -m bench compare OLD.json NEW.json

Rows of the same contender, track, model and batch are compared. Where both did the same batches in as many steps on a CPU, step
is paired with step; else window rates are compared as two samples. The intervals are 95% of a bootstrap (Efron 1979). Machines
differ, and one machine from hour to hour: so a row of ours is judged by its ratio over that of the track's peers in both files
(their geometric mean), if there are any. Exit code 1: a row's whole interval lies below 1 by more than ``--tolerance``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError

DRAWS = 4000
OURS = "Plainloop"
Row = Mapping[str, Any]
Key = tuple[str, str, str, int, int]


def compare_files(old: str, new: str, tolerance: float) -> tuple[str, bool]:
    """The table, and whether a row of ours has become slower. Raises DataError."""
    before, after = newest(old), newest(new)
    common = [key for key in after if key in before]
    if not common:
        raise DataError(f"{old} and {new} have no valid row in common: the same contender, track, model and batch")
    ratios = {key: ratio(before[key], after[key]) for key in common}
    lines = [f"{'contender':<34}{'track':<10}{'old':>10}{'new':>10}   {'new / old':<26}{'beside the peers':<26}"]
    is_slower = False
    for key, (draws, how) in ratios.items():
        peers = [np.log(ratios[k][0]) for k in common if not is_ours(k) and k[1:] == key[1:]] if is_ours(key) else []
        beside = draws / np.exp(np.mean(peers, axis=0)) if peers else draws
        slower = is_ours(key) and float(np.quantile(beside, 0.975)) < 1 - tolerance
        is_slower |= slower
        rates = "".join(f"{row['rate']['ex_s']:>10.2f}" for row in (before[key], after[key]))
        told = f"{interval(draws):<26}{interval(beside) if peers else '-':<26}{how}{'  SLOWER' * slower}"
        lines.append(f"{key[0]:<34}{key[1]:<10}{rates}   {told}")
    left_out = (before.keys() | after.keys()) - {*common}
    if left_out:
        lines.append(f"in one file only: {', '.join(sorted({f'{key[0]} ({key[1]})' for key in left_out}))}")
    return "\n".join(lines), is_slower


def newest(name: str) -> dict[Key, Row]:
    """The last valid row of each kind that may be quoted. Raises DataError for what is no results file."""
    try:
        rows = json.loads(Path(name).read_text())
        found = {key_of(row): row for row in rows if row.get("valid") and not row.get("quick")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is no results file of the bench: {type(error).__name__}: {error}") from error
    if not found:
        raise DataError(f"{name} has no valid row that is not quick")
    return found


def is_ours(key: Key) -> bool:
    return key[0].startswith(OURS)


def key_of(row: Row) -> Key:
    return row["system"], row["track"], row["model"], row["batch"]["size"], row["batch"]["max_length"]


def ratio(old: Row, new: Row) -> tuple[np.ndarray, str]:
    """[DRAWS] bootstrapped rates of the new over the old, above 1 if it is faster; and what was drawn."""
    generator = np.random.default_rng(0)
    steps = [np.asarray(row["time"]["step_ms"]["all"]) for row in (old, new)]
    same = old["work"]["batch_sha"] == new["work"]["batch_sha"] and len(steps[0]) == len(steps[1])
    if same and old["env"]["device"] == new["env"]["device"] == "cpu":
        drawn = generator.integers(0, len(steps[0]), (DRAWS, len(steps[0])))
        return steps[0][drawn].sum(1) / steps[1][drawn].sum(1), f"{len(steps[0])} steps, paired"
    rates = [1 / np.asarray(row["time"]["windows_s"]) for row in (old, new)]
    per_window = [row["work"]["examples"] / len(each) for row, each in zip((old, new), rates, strict=True)]
    means = [
        (n * each)[generator.integers(0, len(each), (DRAWS, len(each)))].mean(1)
        for n, each in zip(per_window, rates, strict=True)
    ]
    return means[1] / means[0], f"{len(rates[0])} and {len(rates[1])} windows"


def interval(draws: np.ndarray) -> str:
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975])
    return f"{middle:.3f} [{low:.3f} to {high:.3f}]"


def judge(files: Sequence[str], tolerance: float) -> int:
    """Prints; the exit code."""
    text, is_slower = compare_files(files[0], files[1], tolerance)
    print(text)
    return int(is_slower)
