"""What is said around a command, and what torch is kept from saying."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_torch_is_told_before_it_is_imported_to_keep_its_warnings():
    """Else --profile prints one of its C++, about memory that was allocated before; what is set already stays."""
    code = "import os, sys, run; run.main(['--help']); print('torch' in sys.modules, os.environ['TORCH_CPP_LOG_LEVEL'])"
    for given, expected in (({}, "ERROR"), ({"TORCH_CPP_LOG_LEVEL": "INFO"}, "INFO")):
        environment = {name: value for name, value in os.environ.items() if name != "TORCH_CPP_LOG_LEVEL"} | given
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f"False {expected}"
