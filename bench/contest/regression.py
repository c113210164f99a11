"""Is it slower than it was? Rows of one results file beside those of an older one.

    python -m bench compare OLD.json NEW.json

Rows of the same contender, track, model and batch are compared, where their texts and their device are the same, too. Where
both did the same batches in as many steps on a CPU, step is paired with step; else windows are compared as two samples, by
the model's FLOPs for real tokens a second. The intervals are 95% of a bootstrap (Efron 1979). Machines differ, and one machine
from hour to hour: so a row of ours is judged by its ratio over that of its peers, those of the same track that ran beside it in
both files (their geometric mean), if there are any. Exit code 1: the whole interval of a row of ours lies below 1 by more
than ``--tolerance``, or a row of ours that counted in the old file is void in the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError

DRAWS = 4000
OURS, ALL_OURS = "Plainloop", "levers"  # the contenders' names begin so; the track that has no others
CHOICES = ("precision", "layout", "tf32", "compile", "allocator", "threads")  # flags whose change a row tells
Row = Mapping[str, Any]
Key = tuple[str, str, str, int, int]


def compare_files(old: str, new: str, tolerance: float) -> tuple[str, bool]:
    """The table, and whether a row of ours has become slower, or void. Raises DataError."""
    (before, _), (after, void) = newest(old), newest(new)
    common = [key for key in after if key in before]
    lost = [key for key in before if key not in after and key in void]
    if not common and not lost:
        raise DataError(f"{old} and {new} have no valid row in common: the same contender, track, model and batch")
    apart = {key: why for key in common if (why := other_work(before[key], after[key]))}
    ratios = {key: ratio(before[key], after[key]) for key in common if key not in apart}
    if not any(map(is_ours, [*ratios, *lost])):
        told = "; ".join(f"{key[0]} ({key[1]}): {why}" for key, why in apart.items())
        raise DataError(f"{old} and {new} have no row of {OURS} that can be compared{': ' * bool(told)}{told}")
    width = max([34, *(len(key[0]) + 2 for key in ratios)])
    lines = [
        f"{'contender':<{width}}{'track':<10}{'old, ex/s':>10}{'new, ex/s':>10}   {'new / old':<26}{'beside the peers':<26}"
    ]
    is_slower = any(map(is_ours, lost))
    for key, (draws, how) in ratios.items():
        peers = [np.log(ratios[k][0]) for k in ratios if is_peer(k, key, before, after)]
        beside = draws / np.exp(np.mean(peers, axis=0)) if peers else draws
        slower = is_ours(key) and float(np.quantile(beside, 0.975)) < 1 - tolerance
        is_slower |= slower
        rates = "".join(f"{row['rate']['ex_s']:>10.2f}" for row in (before[key], after[key]))
        said = ", ".join([how, *changes(before[key], after[key])])
        told = f"{interval(draws):<26}{interval(beside) if peers else '-':<26}{said}{'  SLOWER' * slower}"
        lines.append(f"{key[0]:<{width}}{key[1]:<10}{rates}   {told}")
    lines += [f"not compared: {key[0]} ({key[1]}), {why}" for key, why in apart.items()]
    lines += [f"void in {new}: {key[0]} ({key[1]}), {void[key]}{'  VOID' * is_ours(key)}" for key in lost]
    for name, mine, theirs in ((old, before, after), (new, after, before)):
        if alone := [f"{key[0]} ({key[1]})" for key in mine if key not in theirs and key not in lost]:
            lines.append(f"in {name} only: {', '.join(sorted({*alone}))}")
    lines += [f"other machine: {change}" for change in machines(before, after, ratios)]
    return "\n".join(lines), is_slower


def newest(name: str) -> tuple[dict[Key, Row], dict[Key, str]]:
    """Of the rows that may be quoted the last of each kind, if it is valid, and else why it is not.

    Raises DataError for what is no results file.
    """
    found: dict[Key, Row] = {}
    void: dict[Key, str] = {}
    try:
        for row in json.loads(Path(name).read_text()):
            if row.get("quick") or not (row.get("valid") or "model" in row):  # of older files: what failed has no kind
                continue
            key = key_of(row)
            found.pop(key, None)
            void.pop(key, None)
            if row.get("valid"):
                found[key] = checked(row)
            else:
                void[key] = str(row.get("why") or "not said why")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is no results file of the bench: {type(error).__name__}: {error}") from error
    if not found and not void:
        raise DataError(f"{name} has no row that is not quick")
    return found, void


def checked(row: Row) -> Row:
    """The row, if it has the numbers that are compared. Raises KeyError, TypeError, ValueError."""
    for numbers in (row["time"]["windows_s"], row["time"]["step_ms"]["all"]):
        if not numbers or min(map(float, numbers)) <= 0:
            raise ValueError(f"{row['system']} ({row['track']}) has no time, or one that is not above 0")
    if float(row["rate"]["ex_s"]) <= 0 or int(row["work"]["examples"]) <= 0:
        raise ValueError(f"{row['system']} ({row['track']}) has done nothing")
    return dict(row) | {"work": {"batch_sha": None} | row["work"], "env": {"device": None} | row["env"]}


def is_ours(key: Key) -> bool:
    return key[0].startswith(OURS) or key[1] == ALL_OURS


def is_peer(other: Key, key: Key, *files: Mapping[Key, Row]) -> bool:
    """Is it another tool's row that ran in the same contest as this row of ours, in each of the files?"""
    if not is_ours(key) or is_ours(other) or other[1:] != key[1:]:
        return False
    return all(rows[other].get("run_id") == rows[key].get("run_id") for rows in files)


def key_of(row: Row) -> Key:
    return row["system"], row["track"], row["model"], row["batch"]["size"], row["batch"]["max_length"]


def other_work(old: Row, new: Row) -> str:
    """Why a ratio of the two would compare something else than speed; "" if it does not."""
    if (was := old["env"]["device"]) != (now := new["env"]["device"]):
        return f"another device: {was}, now {now}"
    if (was := old.get("task")) != (now := new.get("task")):
        return f"other texts: {was}, now {now}"
    return ""


def changes(old: Row, new: Row) -> list[str]:
    """What the two rows chose differently: ``precision bf16, now fp32``."""
    flags = [row.get("flags", {}) for row in (old, new)]
    return [
        f"{name} {flags[0][name]}, now {flags[1][name]}"
        for name in CHOICES
        if all(name in each for each in flags) and flags[0][name] != flags[1][name]
    ]


def machines(before: Mapping[Key, Row], after: Mapping[Key, Row], keys: Mapping[Key, Any]) -> list[str]:
    """In what the machines and versions of the compared rows differ; each once."""
    found: dict[str, None] = {}
    for key in keys:
        old, new = ({k: v for k, v in row["env"].items() if k != "gemm_tflops"} for row in (before[key], after[key]))
        old, new = (each | each.pop("versions", {}) for each in (old, new))
        found |= {f"{k} {old[k]}, now {new[k]}": None for k in old if k in new and old[k] != new[k]}
    return list(found)


def ratio(old: Row, new: Row) -> tuple[np.ndarray, str]:
    """[DRAWS] bootstrapped rates of the new over the old, above 1 if it is faster; and what was drawn."""
    generator = np.random.default_rng(0)
    steps = [np.asarray(row["time"]["step_ms"]["all"]) for row in (old, new)]
    same = old["work"]["batch_sha"] == new["work"]["batch_sha"] and len(steps[0]) == len(steps[1])
    if same and old["env"]["device"] == new["env"]["device"] == "cpu":
        drawn = generator.integers(0, len(steps[0]), (DRAWS, len(steps[0])))
        return steps[0][drawn].sum(1) / steps[1][drawn].sum(1), f"{len(steps[0])} steps, paired"
    rates = [1 / np.asarray(row["time"]["windows_s"]) for row in (old, new)]
    done, what = work_of(old, new)
    per_window = [work / len(each) for work, each in zip(done, rates, strict=True)]
    means = [
        (n * each)[generator.integers(0, len(each), (DRAWS, len(each)))].mean(1)
        for n, each in zip(per_window, rates, strict=True)
    ]
    return means[1] / means[0], f"{len(rates[0])} and {len(rates[1])} windows, by {what}"


def work_of(old: Row, new: Row) -> tuple[list[float], str]:
    """What each has done: FLOPs of the model for real tokens, since other batches hold texts of another length; examples
    where FLOPs are not known of both. And which of the two."""
    rates = [row["rate"].get("tflops") for row in (old, new)]
    if all(rates):
        return [rate * sum(row["time"]["windows_s"]) for rate, row in zip(rates, (old, new), strict=True)], "FLOPs"
    return [row["work"]["examples"] for row in (old, new)], "examples"


def interval(draws: np.ndarray) -> str:
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975])
    return f"{middle:.3f} [{low:.3f} to {high:.3f}]"


def judge(files: Sequence[str], tolerance: float) -> int:
    """Prints; the exit code."""
    text, is_slower = compare_files(files[0], files[1], tolerance)
    print(text)
    return int(is_slower)
