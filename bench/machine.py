"""The name of the machine, for results; imports nothing, so that any module may ask."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Its name, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
