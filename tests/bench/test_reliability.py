"""The figures of docs/reliability.md are those of bench/results, and nothing there went wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.reliability import endurance, faults, kill, kill_phases
from engine.config import TrainConfig

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
KILL, FAULTS, ENDURANCE, CHECKPOINTS = (
    json.loads((ROOT / f"bench/results/{name}-cpu.json").read_text()) for name in ("kill", "faults", "endurance", "checkpoints")
)

OPTIMIZERS = json.loads((ROOT / "bench/results/kill-optimizers-cpu.json").read_text())["optimizers"]


def kill_rows() -> list[str]:
    points = KILL["points"]
    equal = sum(not row["differences"] for row in points)
    rows = [f"| {len(points)} | {equal} of {len(points)} |"]
    for part in ("random", "imdb"):
        found = KILL[part]
        rows.append(f"| {found['kills']} kills in {found['runs']} runs | {found['equal']} of {found['runs']} |")
    for found in OPTIMIZERS:
        assert not found["wrong"]
        rows.append(f"| {found['kills']} kills in {found['runs']} runs | {found['equal']} of {found['runs']} |")
    return rows


def fault_rows() -> list[str]:
    calls, harm = FAULTS["calls"], FAULTS["damage"]
    wrong = {"kills": 0, "errors": 0}
    for row in calls["wrong"]:
        wrong["kills" if row["struck"] == "SIGKILL" else "errors"] += 1
    rows = [f"| {calls[kind]} | {wrong[kind]} |" for kind in wrong]
    rows.append(f"| {len(FAULTS['disk'])} | {sum(not row['as_it_must'] for row in FAULTS['disk'])} |")
    rows.append(f"| {harm['number']:,} | {harm['number'] - harm['detected']} |")
    return rows


def sentences() -> list[str]:
    wait = {name: ENDURANCE["saving"][name]["wait_s"]["median"] for name in ("sync", "async")}
    found = [
        f"A checkpoint of {ENDURANCE['saving']['sync']['checkpoint_mb']} MB: training waits {wait['sync']:.2f} s without it, "
        f"{wait['async']:.2f} s with it.",
        f"{ENDURANCE['steps']['steps']:,} steps in one process: {ENDURANCE['steps']['bytes_per_step']:.0f} bytes a step after the warm-up.",
    ]
    for kind, name in (("csv", "CSV"), ("parquet", "Parquet")):
        few, many = ENDURANCE[kind]["runs"]
        found.append(
            f"{name}, {many['rows']:,} rows ({many['file_mb']:.0f} MB): {ENDURANCE[kind]['extra_mb']['own']:.0f} MB more at the peak than with "
            f"{few['rows']:,}, training starts after {many['seconds_to_first_step']:.0f} s."
        )
    return found


@pytest.mark.parametrize("figure", [*kill_rows(), *fault_rows(), *sentences()])
def test_the_figures_are_those_of_the_results(figure):
    assert figure in " ".join(PAGE.split()), figure


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_memory_of_saving_is_that_of_the_results(size):
    plain, beside = (
        next(row for row in CHECKPOINTS["rows"] if row["ranks"] == size and row["async_save"] == asynchronous)
        for asynchronous in (False, True)
    )
    figures = [plain["share_mb"], *(max(values) for values in (plain["saving_mb"], beside["saving_mb"], plain["resuming_mb"]))]
    line = f"| {size}{', `--shard`' if size > 1 else ''} | {' | '.join(f'{figure:.0f}' for figure in figures)} |"
    assert line in (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert max(plain["saving_mb"]) < 0.1 * plain["share_mb"] and max(beside["saving_mb"]) < 1.1 * plain["share_mb"]


def test_there_are_no_other_figures_in_the_tables():
    rows = [line for line in PAGE.splitlines() if re.search(r"\d", line) and line.startswith("|")]
    assert len(rows) == len(kill_rows()) + len(fault_rows())


def test_all_was_as_promised():
    assert kill.is_clean(KILL) and faults.is_clean(FAULTS)
    assert all(ENDURANCE[part]["as_it_must"] for part in endurance.PARTS)
    assert KILL["random"]["kills"] >= 200 and KILL["imdb"]["kills"] >= 10 and FAULTS["damage"]["number"] >= 1000


def test_every_flag_on_the_page_is_one():
    known = set(TrainConfig.__dataclass_fields__)
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)} <= known


def test_the_flipped_bits_are_those_of_the_results():
    found = json.loads((ROOT / "bench/results/rooms/flips.json").read_text())
    struck = [item for part in ("damage", "cache") for item in found[part]["struck"].items()]
    flipped, cut = (sum(number for name, number in struck if how in name) for how in ("flipped", "cut"))
    assert f"{flipped:,} flipped bits and {cut:,} cuts" in " ".join(PAGE.split()) and flipped >= 10_000
    assert faults.is_clean(found)


def test_the_kills_within_phases_are_those_of_the_results():
    found = json.loads((ROOT / "bench/results/rooms/kill-phases.json").read_text())["phases"]
    kills, runs = (sum(part[name] for part in found) for name in ("kills", "runs"))
    assert f"{kills} kills in {runs} runs" in " ".join(PAGE.split()) and kills >= 500
    assert [part["phase"] for part in found] == [*kill_phases.PHASES] and all(part["equal"] == part["runs"] for part in found)
