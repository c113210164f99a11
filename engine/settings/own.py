"""A class out of a file of the user's, ``FILE.py:CLASS``: a task of one's own (``--task``), a log writer (``--write-to``).

Importing such a file runs it, so its name is taken from the user's own command line or settings file only, never from what a
run has left behind. Next: record/writers.py, tasks/__init__.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import UsageError, is_own_code

_imported: dict[tuple[str, str, int, int], ModuleType] = {}  # by use, path, time and size: a file is run once


def is_own(name: str) -> bool:
    """Is it ``FILE.py:CLASS``?"""
    path, colon, _ = name.rpartition(":")
    return bool(colon) and path.endswith(".py")


def class_in_file(name: str, flag: str) -> type[Any] | None:
    """The class that ``name`` (``FILE.py:CLASS``, given with ``--flag``) names; None if the file has no class of that name.

    Raises UsageError when there is no such file, or when it cannot be imported: with the file and line of the error.
    """
    found = object_in_file(name, flag, f"--{flag} {name}")
    return found if inspect.isclass(found) else None


def object_in_file(name: str, use: str, said: str) -> Any:
    """What ``name`` (``FILE.py:NAME``) names; None if the file has none of that name. ``use``: what for, in one word.

    ``said``: how it was asked for. Raises UsageError as above.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{said}: there is no file {path}")
    return vars(_import(path, use, said)).get(attribute)


def _import(path: Path, use: str, said: str) -> ModuleType:
    status = path.stat()
    key = (use, str(path.resolve()), status.st_mtime_ns, status.st_size)
    if key not in _imported:
        spec = importlib.util.spec_from_file_location(f"plainloop_{use.replace('-', '_')}_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there for the types they name
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            place = line_of(error, path)
            where = f" ({place})" if place else ""
            raise UsageError(f"{said}: {path} cannot be imported: {type(error).__name__}: {error}{where}") from error
        _imported[key] = module
    return _imported[key]


def code_fingerprint(kind: type[Any]) -> str:
    """Hash of the files that a class and its bases stand in, but for those of this project and of installed packages; "" if
    there are no others.
    """
    installed = (*sysconfig.get_paths().values(), str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tasks"))
    files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in kind.__mro__}
    own = sorted(file for file in files if file and not file.startswith(installed))
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in own)).hexdigest() if own else ""


def line_of(error: BaseException, path: Path) -> str:
    """``FILE.py, line N``: the innermost line of this file that the error has come through; "" if it has come through none.

    Where it has come on through another file of the user's, which this one imports, that is named first.
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    if not lines:
        return ""
    inner = [frame for frame in frames if Path(frame.filename) == path or is_own_code(frame.filename)][-1]
    other = "" if Path(inner.filename) == path else f"{inner.filename}, line {inner.lineno}, from "
    return f"{other}{path.name}, line {lines[-1]}"
