"""The commands of docs/life-of-a-model.md, run one after the other; their output is written into the page.

    python -m bench life                real reviews, MiniLM; some twenty minutes on two cores

Each block of commands of the page runs in a shell of its own, in one folder that all of them share; ``python run.py`` is this
checkout's. The block behind it is what they have said: at most so many lines, the middle left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.flags import make_parser
from bench.machine import RESULTS, ROOT, keep

PAGE = ROOT / "docs/life-of-a-model.md"
BLOCK = re.compile(r"```bash\n(?P<commands>.*?)```\n\n```\n(?P<said>.*?)```\n", re.DOTALL)
FIRST, LAST = 8, 8  # lines that are shown of a longer output
BARS = re.compile(r"^.*(it/s\]|s/it\]|\?it/s|rows/s\]).*$")  # of progress


def main(argv: Sequence[str]) -> int:
    make_parser("life", __doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        seconds: list[dict[str, object]] = []
        text = played(
            PAGE.read_text(), Path(folder), lambda commands, taken: seconds.append({"commands": commands, "seconds": taken})
        )
    PAGE.write_text(text)
    keep(RESULTS / "life-cpu.json", {"blocks": seconds})
    return 0


def played(text: str, folder: Path, note: Callable[[str, float], None]) -> str:
    """The page with what its commands say in ``folder``; ``note`` is told of each block and its seconds. Raises SystemExit."""

    def play(found: re.Match[str]) -> str:
        began = time.perf_counter()
        said = run(found["commands"], folder)
        note(found["commands"], round(time.perf_counter() - began, 1))
        return f"```bash\n{found['commands']}```\n\n```\n{shortened(said)}```\n"

    return BLOCK.sub(play, text)


def run(commands: str, folder: Path) -> str:
    """What the commands print, on both streams. Raises SystemExit with it if one of them fails."""
    python = folder / "bin/python"  # in its own process, so that a server in the background can be ended
    python.parent.mkdir(exist_ok=True)
    call = f'#!/bin/sh\nif [ "$1" = run.py ]; then shift; set -- {ROOT}/run.py "$@"; fi\nexec {sys.executable} "$@"\n'
    python.write_text(call)
    python.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    ended = subprocess.run(
        [shutil.which("bash") or "bash", "-ec", commands], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise SystemExit(f"{commands}ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def shortened(said: str) -> str:
    """Without progress bars, and without the middle of what is long."""
    lines = [line for line in (line.split("\r")[-1].rstrip() for line in said.split("\n")) if line and not BARS.match(line)]
    if len(lines) > FIRST + LAST + 1:
        lines = [*lines[:FIRST], "...", *lines[-LAST:]]
    return "".join(f"{line}\n" for line in lines)
