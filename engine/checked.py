"""Documents that something else may have written: read within limits, and each value of the type that it must have.

A run's run.json, metrics.jsonl, profile.json and errors.csv, the settings of a model or an adapter, and the state.json of a
checkpoint are read with what stands here, and with nothing else. It raises ValueError; who reads a file says which file it
is and what to do. Next: artifacts/document.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MOST_BYTES = 64 << 20  # of a document, which is a few KiB
MOST_DEPTH = 50  # of objects and lists in each other; a model's config has a handful


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, and ValueError for a pipe or a device, which could be read for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening a pipe would wait for who writes to it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file. Raises OSError, and ValueError for no regular file, or one of more than ``most`` bytes."""
    with open_regular(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    return content


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, for NaN and infinity, and for one that is too deep."""
    try:
        found = json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError(f"it is more than {MOST_DEPTH} levels deep") from None
    check_depth(found, MOST_DEPTH)
    return found


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object of a JSON text. Raises ValueError as ``parse_json`` does, and for any other value."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


def is_a(value: Any, kind: type[Any]) -> bool:
    """Is the value of the type? As ``float`` any finite number counts; a truth is no number, and none has over 64 bits."""
    if kind is float:
        return is_a(value, int) or (isinstance(value, float) and math.isfinite(value))
    if kind is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def expect(
    found: Mapping[str, Any],
    name: str,
    kind: type[Any],
    *,
    optional: bool = False,
    default: Any = None,
    least: int | None = None,
) -> Any:
    """The value of that name, or ``default`` where there is none.

    ``optional``: it may be null, and may be missing. ``least``: of a number. Raises ValueError.
    """
    value = found.get(name, default)
    is_right = is_a(value, kind) and (least is None or value >= least)
    if not is_right and not (optional and value is None):
        raise ValueError(f"{name} {'is missing' if name not in found else f'cannot be {shortened(value)}'}")
    return value


def expect_each(name: str, values: Mapping[str, Any], kind: type[Any], *, optional: bool = False) -> None:
    """Raises ValueError unless every value is of the type (or null, with ``optional``)."""
    for key, value in values.items():
        if not (is_a(value, kind) or (optional and value is None)):
            raise ValueError(f"{name}.{key} cannot be {shortened(value)}")


def known(kind: type[Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Keep those of the values that are fields of the dataclass."""
    return {each.name: found[each.name] for each in dataclasses.fields(kind) if each.name in found}


def check_depth(value: Any, most: int) -> None:
    """Raises ValueError for objects and lists that lie too deep in each other."""
    level = [value]
    for _ in range(most):
        level = [inner for each in level if isinstance(each, dict | list)
                 for inner in (each.values() if isinstance(each, dict) else each)]  # fmt: skip
        if not level:
            return
    raise ValueError(f"it is more than {most} levels deep")


def shortened(value: Any) -> str:
    """Cut the value so that it may stand in one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def refuse_constant(name: str) -> NoReturn:
    """Raises ValueError for NaN and Infinity, which ``json.loads`` would take."""
    raise ValueError(f"{name} is no JSON")
