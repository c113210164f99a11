"""Where this code lies, in a checkout or in an installed package, and how it was started: for lines that say what to type.

An installed Plainloop is the folder ``plainloop`` among the packages; engine, tasks, bench and run.py lie in it as they do in a
checkout, so that whatever is found from one of them is found in both. Imports nothing of ours.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
IS_CHECKOUT = (ROOT / "plainloop").is_dir()


def program() -> str:
    """What starts Plainloop here, as it is typed: ``python run.py`` of a checkout, else the command ``plainloop``."""
    started = Path(sys.argv[0] if sys.argv else "")
    if started.stem == "plainloop":
        return "plainloop"
    if started.name == "__main__.py" and started.parent.name == "plainloop":
        return "python -m plainloop"
    return "python run.py" if IS_CHECKOUT else "plainloop"


def under_torchrun() -> str:
    """What follows torchrun's own flags."""
    return "run.py" if program() == "python run.py" else "-m plainloop"


def install_package(name: str) -> str:
    """The command that installs a package that no extra brings."""
    return f"pip install -c constraints.txt {name}" if IS_CHECKOUT else f"pip install {name}"


def install(*extras: str) -> str:
    """The command that installs what the extras stand on. An installed Plainloop has no constraints: the packages are named."""
    if IS_CHECKOUT:
        return f"pip install -c constraints.txt '.[{','.join(extras)}]'"
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return "pip install " + " ".join(f"'{package}'" for extra in extras for package in groups[extra])
