"""Small runs through ``fit``: settings, a task, and what the tests read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.toys import tiny
from engine.config import TrainConfig


def config(folder: Path, **changes: Any) -> TrainConfig:
    """10 steps of make_task's rows, a line of the log every third; they go to folder/run."""
    settings: dict[str, Any] = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "log_steps": 3, "device": "cpu"} | changes
    return TrainConfig(output_dir=str(folder / "run"), **settings)


def make_task(**rows: Any) -> tiny.TokenTask:
    return tiny.TokenTask(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5), **rows)


def kinds(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def unfinish(folder: Path, **changes: Any) -> None:
    """As if the run had been killed just before its end; ``changes`` to what run.json says of it."""
    document = json.loads((folder / "run/run.json").read_text())
    (folder / "run/run.json").write_text(json.dumps(document | {"status": "running"} | changes))
