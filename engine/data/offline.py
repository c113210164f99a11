"""Files of installed packages: what the ``offline`` extra brings, for where the Hub is out of reach."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def packaged_file(package: str, name: str) -> Path | None:
    """A file inside an installed package, which is not imported; None without the package."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((Path(folder) / name for folder in folders if (Path(folder) / name).exists()), None)
