"""The command line from a test: the arguments over the ``project`` fixture of conftest.py, and what an error comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import run


def command(folder: Path, *more: str) -> list[str]:
    """Arguments that train one epoch on the model and the files of ``project``."""
    return [
        "--task", "classification", "--model", str(folder / "model"), "--train-file", str(folder / "train.csv"),
        "--eval-file", str(folder / "eval.csv"), "--epochs", "1", "--device", "cpu", *more,
    ]  # fmt: skip


def fails(arguments: list[str], capsys: Any) -> tuple[int, str]:
    """Exit code and the error line, which is the last and the only one."""
    capsys.readouterr()
    code = run.main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    return code, lines[-1]
