"""Plainloop from Python, wherever it is installed: ``from plainloop import fit, TrainConfig``. See docs/from-python.md.

The code is in ``engine`` and ``tasks``, beside this file in an installed package and one folder up in a checkout. This module
makes them importable. Names as plain as these may be somebody else's, too: then whatever is asked for here raises ImportError
with one line that says whose, and how to go on.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import VERSION as VERSION
    from engine.artifacts.result import Result as Result
    from engine.config import TrainConfig as TrainConfig
    from engine.console import quiet_libraries as quiet_libraries
    from engine.data.batch import Batch as Batch
    from engine.data.sources import Source as Source
    from engine.data.sources import SourceConfig as SourceConfig
    from engine.finished import open_model as open_model
    from engine.fit import fit as fit
    from engine.task import Task as Task
    from tasks import find as find

_PLACES = {
    "Batch": "engine.data.batch:Batch",
    "VERSION": "engine:VERSION",
    "Result": "engine.artifacts.result:Result",
    "Source": "engine.data.sources:Source",
    "SourceConfig": "engine.data.sources:SourceConfig",
    "Task": "engine.task:Task",
    "TrainConfig": "engine.config:TrainConfig",
    "find": "tasks:find",
    "fit": "engine.fit:fit",
    "open_model": "engine.finished:open_model",
    "quiet_libraries": "engine.console:quiet_libraries",
}
__all__ = sorted(_PLACES)  # noqa: PLE0605 - the names above

_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "engine").is_dir() else _HERE.parent  # the folder that holds engine, tasks and run.py
if str(ROOT) not in sys.path:  # last: a name that is somebody else's stays theirs
    sys.path.append(str(ROOT))


def shadowed() -> str | None:
    """What stands in the way of Plainloop's engine or tasks, and how to go on, in one line; None: nothing does."""
    for name in ("engine", "tasks"):
        module = sys.modules.get(name)
        spec = find_spec(name) if module is None else module.__spec__
        folders = list(spec.submodule_search_locations or ()) if spec else []
        found = (spec and spec.origin) or getattr(module, "__file__", None) or (folders[0] if folders else None)
        if found is not None and not Path(found).resolve().is_relative_to(ROOT / name):
            why = "comes before it on sys.path" if module is None else "was imported before it"
            return (
                f"Plainloop's own {name} is not found: {found} {why}. Rename that, or say sys.path.insert(0, {str(ROOT)!r}) "
                f"before anything imports {name}; the command plainloop works beside it"
            )
    return None


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'plainloop' has no attribute {name!r}")
    if (line := shadowed()) is not None:
        raise ImportError(line)
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)
