"""ruff and mypy, with the commands of .pre-commit-config.yaml."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(r"entry: ([^,]+),", (ROOT / ".pre-commit-config.yaml").read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_checks_pass(command):
    result = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


def test_the_checks_are_three():
    assert COMMANDS == ["ruff check", "ruff format --check", "mypy"]
