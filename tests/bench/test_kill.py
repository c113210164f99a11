"""A small part of ``python -m bench kill``: real SIGKILLs, resumed until the end, every file compared.

In a process of its own, because the one that forks must not have computed anything; this module is its program, too.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.reliability import forked, kill, kill_phases, kill_points
from bench.reliability.lab import differences, tiny_lab

ROOT = Path(__file__).parent.parent.parent
POINTS = [
    "amending: the old one un-named, the new one not yet named",
    "finish: all but the last run.json",
]


def program(folder: Path, whole: bool) -> dict:
    """What ``python -m bench kill`` does in half an hour, in seconds; ``whole``: with the parts that are slower."""
    forked.warm_up()
    os.environ["PLAINLOOP_CACHE"] = str(folder / "cache")
    lab = tiny_lab(folder / "tiny")
    kill_points.CONTROLS = {name: kill_points.CONTROLS[name] for name in ("nothing forgotten", "open log window not restored")}
    few = {
        "threads": forked.threads(),
        "random": kill.random_kills(lab, [["--save-steps", "1", "--log-steps", "2"]], 1, seed=1),
        "points": kill_points.kill_points(lab, [0], ["fp32"], POINTS[:1]),
        "controls": kill_points.controls(lab),
    }
    if not whole:
        return few
    everything = [*kill.OPTIMIZERS["muon"], *kill.OPTIMIZERS["average"], "--save-steps", "1"]
    return few | {
        "optimizers": [{"optimizer": "muon"} | kill.random_kills(lab, [everything], 2, seed=1)],
        "points": kill_points.kill_points(lab, [0], ["fp32"], POINTS)
        + kill_points.kill_points(lab, [2], ["fp32"], ["saving: all written, not yet renamed"], ["--async-save"]),
        "phases": [{"phase": "overwrite"} | kill_phases.kills_within(lab, "overwrite", 1, random.Random(1))],
    }


WHOLE = pytest.mark.parametrize("document", [pytest.param("whole", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module", params=["few", pytest.param("whole", marks=pytest.mark.slow)])
def document(request, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("kill")
    command = [sys.executable, "-m", "tests.bench.test_kill", str(folder), request.param]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "document.json").read_text())


def test_the_process_that_forks_has_one_thread(document):
    assert len([name for name in document["threads"] if not name.startswith("jemalloc")]) == 1, document["threads"]


def test_killed_at_random_times_the_end_is_the_same(document):
    assert document["random"]["kills"] >= 1 and kill.is_clean(document)
    assert not document["random"]["wrong"] and document["random"]["equal"] == document["random"]["runs"]


@WHOLE
def test_with_another_optimizer_and_an_average_the_end_is_the_same(document):
    [found] = document["optimizers"]
    assert found["kills"] >= 2 and found["equal"] == found["runs"]
    found["wrong"] = [{"flags": "", "differences": ["model.safetensors"]}]
    assert not kill.is_clean(document)
    found["wrong"] = []


@WHOLE
def test_killed_while_it_overwrites_the_end_is_the_same(document):
    [found] = document["phases"]
    assert found["kills"] >= 1 and found["equal"] == found["runs"] and 0 < found["phase_seconds"] < 60
    found["wrong"] = [{"differences": ["model.safetensors"]}]
    assert not kill.is_clean(document)
    found["wrong"] = []


def test_killed_at_each_point_the_end_is_the_same(document):
    """After two-worker runs, whose workers outlive the kill, the resumed run is not refused as a second one."""
    assert len(document["points"]) in (1, len(POINTS) + 1)
    assert [row for row in document["points"] if row["differences"]] == []


def test_what_is_forgotten_is_noticed(document):
    noticed = {row["forgotten"]: row["noticed"] for row in document["controls"]}
    assert noticed == {"nothing forgotten": False, "open log window not restored": True}


def test_the_summary_counts(document):
    assert kill.is_clean(document)
    number = len(document["points"])
    assert f"points: {number}, of which {number} bitwise equal" in kill.summary(document)
    document["points"][0]["differences"] = ["model.safetensors"]
    assert not kill.is_clean(document) and f"points: {number}, of which {number - 1}" in kill.summary(document)


def test_two_ends_differ_in_what_they_differ_in(tmp_path):
    for name, loss, seconds in (("one", 1.0, 1), ("two", 2.0, 2), ("three", 1.0, 3)):
        (tmp_path / name).mkdir()
        line = {"step": 1, "loss": loss, "seconds": seconds}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (tmp_path / name / "model.safetensors").write_bytes(b"same")
    assert differences(tmp_path / "one", tmp_path / "two") == ["metrics.jsonl"]
    assert differences(tmp_path / "one", tmp_path / "three") == []
    (tmp_path / "three/.tmp-step-00000001").write_bytes(b"")
    assert differences(tmp_path / "one", tmp_path / "three") == [".tmp-step-00000001"]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "document.json").write_text(json.dumps(program(target, sys.argv[2] == "whole")))
