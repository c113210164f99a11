"""Commands in a process of their own that asks a local stand-in for the Hub, with an empty cache (bench/toys/hub_server.py)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, endpoint: str, *arguments: str, program: Sequence[str] = (str(ROOT / "run.py"),)):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def run_each(folder: Path, endpoint: str, commands: list[list[str]]) -> list[tuple[int, str]]:
    """(exit code, stderr) of each command, one after the other in one process: Python starts once."""
    code = (
        "import json, sys, run\nfor argv in json.loads(sys.argv[1]): print('end', run.main(argv), file=sys.stderr, flush=True)"
    )
    said = run(folder, endpoint, json.dumps(commands), program=["-c", code]).stderr
    texts = re.split(r"^end (\d+)\n", said, flags=re.MULTILINE)
    return list(zip(map(int, texts[1::2]), texts[::2], strict=False))
