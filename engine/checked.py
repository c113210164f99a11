"""Values that were read from a JSON file: each is of the type that it must have, or the reading ends with one line.

The files are run.json and the state.json of a checkpoint; both may have been written by something else.
Next: artifacts/document.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NoReturn


def is_a(value: Any, kind: type[Any]) -> bool:
    """Is the value of the type? As ``float`` any finite number counts; a truth is no number."""
    if kind is float:
        return is_a(value, int) or (isinstance(value, float) and math.isfinite(value))
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
