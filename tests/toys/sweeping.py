"""Sweeps whose runs are made in this process: an interpreter that imports torch for each takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import run
from engine.sweep import command
from engine.sweep.runs import Outcome, last_line
from tests.toys.killed import run_main


def run_here(commands: Sequence[tuple[Sequence[str], Path]], at_once: int, ended: Callable[[int, Outcome], None]) -> None:
    """As ``run_all``."""
    for number, (flags, log) in enumerate(commands):
        code, text = run_main(list(flags))
        log.write_text(text)
        ended(number, Outcome(code, last_line(log, 0) if code else "", 0.1))


def sweep(*arguments: str, runner: Any = run_here) -> int:
    """``run.py sweep``; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run_all", runner)
        return run.main(["sweep", *arguments])


def training(folder: Path, **settings: Any) -> list[str]:
    """Flags over the model and the files of a folder, without an output directory."""
    given = {"task": "classification", "model": folder / "model", "train_file": folder / "train.csv", "eval_file": folder / "eval.csv",
             "epochs": 1, "device": "cpu", "batch_size": 8, "best_metric": "accuracy"} | settings  # fmt: skip
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def document(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "sweep.json").read_text())  # type: ignore[no-any-return]
