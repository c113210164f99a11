"""Where the repository and its results are, and the machine and versions a result comes from; imports nothing heavy."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine import installed
from engine.errors import UsageError
from engine.installed import IS_CHECKOUT

ROOT = installed.ROOT
RESULTS = ROOT / "bench/results" if IS_CHECKOUT else Path("bench-results").resolve()  # never among the packages
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "numpy", "pyarrow")


def page_of(name: str) -> Path:
    """A page of docs/, to be written anew. Raises UsageError where there are none: in an installed package."""
    refuse_without_checkout(f"docs/{name} is written")
    return ROOT / "docs" / name


def refuse_without_checkout(what: str) -> None:
    """Raises UsageError in an installed package, which has neither pages nor tests."""
    if not IS_CHECKOUT:
        raise UsageError(f"{what} in a checkout of Plainloop, and this is an installed package")


def processor() -> str:
    """Its name, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine() -> dict[str, Any]:
    return {"processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}"}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def keep(path: Path, document: Mapping[str, Any]) -> None:
    """Write a result with the machine and versions it comes from; the file is whole at every moment."""
    origin = {
        "when": now(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(origin | dict(document) | origin, indent=1) + "\n")
    os.replace(temporary, path)
