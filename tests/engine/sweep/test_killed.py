"""A sweep that is killed with SIGKILL in the middle of a run, and started again, ends as one that was left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.toys import tiny
from tests.toys.sweeping import document, sweep, training

ROOT = Path(__file__).parents[3]


def killed_in_its_second_run(command: list[str], directory: Path, at_step: int) -> None:
    """SIGKILL for the sweep alone, as soon as the second of its runs has logged that step."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        logs = sorted(directory.glob("runs/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = logs[-1].read_text().splitlines() if len(logs) == 2 else []
        if any(f'"step": {at_step},' in line for line in lines):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL, "it had ended before it could be killed"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_the_middle_of_a_run(tmp_path):
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=120, eval=40)
    given = [
        *training(tmp_path, epochs=3),
        "--save-steps",
        "5",
        "--log-steps",
        "1",
        "--grid",
        "learning_rate=1e-3,1e-2",
        "--seeds",
        "1",
    ]
    parts = [*given, "--output-dir", str(tmp_path / "parts")]
    command = [sys.executable, "run.py", "sweep", *parts]
    killed_in_its_second_run(command, tmp_path / "parts", at_step=12)
    second = tmp_path / "parts/runs/learning_rate=0.01,seed=42"
    assert json.loads((second / "run.json").read_text())["status"] == "running"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stdout
    log = (tmp_path / "parts/logs/learning_rate=0.01,seed=42.log").read_text()
    assert re.search(r"resume: .*, from step [1-9]\d* of 45", log)
    assert sweep(*given, "--output-dir", str(tmp_path / "whole")) == 0
    one, other = document(tmp_path / "parts"), document(tmp_path / "whole")
    timeless = [[{**row, "seconds_a_run": None} for row in each["settings"]] for each in (one, other)]
    assert (
        timeless[0] == timeless[1]
        and one["reported"] == other["reported"]
        and one["best"]["setting"] == other["best"]["setting"]
    )
    for name in ("learning_rate=0.001,seed=42", "learning_rate=0.01,seed=42"):
        files = [(tmp_path / folder / "runs" / name / "model.safetensors").read_bytes() for folder in ("parts", "whole")]
        assert files[0] == files[1], name
