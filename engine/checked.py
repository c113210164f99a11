"""Documents that something else may have written: read within limits, and each value of the type that it must have.

Nothing else in engine/ and tasks/ reads JSON (tests/engine/test_checked.py): a run's run.json, metrics.jsonl and profile.json,
the settings of a model or an adapter, manifest and state.json of a checkpoint, the cache, rows of data, settings files. It
raises ValueError; who reads a file says which file it is and what to do. Next: artifacts/document.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # Windows has no pipes among its files
MOST_BYTES = 64 << 20  # of a document, which is a few KiB
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how a text of UTF-8 can hold one, or a whole of two
MOST_DEPTH = 50  # of objects and lists in each other; a model's config has a handful


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises OSError, and ValueError for a pipe or a device, which could be read for ever, and for a link that leads elsewhere.
    """
    if path.is_symlink() and not leads_within(path):
        raise ValueError("it is a link that leads out of its folder")
    descriptor = os.open(path, os.O_RDONLY | NO_WAIT)  # else opening a pipe would wait for who writes to it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    return os.fdopen(descriptor, "rb")


def leads_within(path: Path) -> bool:
    """Does a link lead into its own folder or, in the Hub's cache, to the files of the same repository?

    Who wrote the folder may have written the link: a file of this machine would be read, shown, or saved with a model.
    """
    folder, target = path.parent.resolve(), path.resolve()
    repository = next((above.parent for above in folder.parents if above.name == "snapshots"), folder)
    return target.is_relative_to(folder) or target.is_relative_to(repository / "blobs")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file. Raises OSError, and ValueError for no regular file, or one of more than ``most`` bytes."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(min(size, most) + 1)  # a buffer of so many bytes is made at once
        if len(content) > size:  # it grows, or is one of /proc, which have no size
            content += stream.read(most + 1 - len(content))
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    return content


def parse_json(
    text: str | bytes,
    *,
    constants: bool = False,
    halves: bool = False,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON text, of UTF-8. Raises ValueError for what is none, and for one that is too deep.

    Refused are NaN and infinity, unless ``constants``, and texts with half a character (a lone surrogate), which no file could
    hold, unless ``halves``. ``pairs`` makes an object of its names and values; RecursionError does not come out of here.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")  # a UnicodeDecodeError is a ValueError
    try:
        found = json.loads(text, parse_constant=None if constants else refuse_constant, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"it is more than {MOST_DEPTH} levels deep") from None
    check_depth(found, MOST_DEPTH)
    if not halves and ESCAPED_HALF.search(text) and holds_half(found):
        raise ValueError("it holds half a character (a lone surrogate)")
    return found


def parse_object(text: str | bytes, *, constants: bool = False) -> dict[str, Any]:
    """The object of a JSON text. Raises ValueError as ``parse_json`` does, and for any other value."""
    found = parse_json(text, constants=constants)
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


class TwiceError(ValueError):
    """A name that stands twice."""

    def __init__(self, name: str):
        super().__init__(f"{name} is given twice: leave one of them out")
        self.name = name


def each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of the pairs. Raises TwiceError when a name stands twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TwiceError(name)
        found[name] = value
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
    for depth, level in enumerate(levels(value)):
        if depth == most and level:
            raise ValueError(f"it is more than {most} levels deep")


def levels(value: Any) -> Iterator[list[Any]]:
    """The value, what objects and lists in it hold, what those hold, and so on to a level that is empty."""
    level = [value]
    while level:
        yield level
        level = [inner for each in level if isinstance(each, dict | list)
                 for inner in (each.values() if isinstance(each, dict) else each)]  # fmt: skip


def holds_half(value: Any) -> bool:
    """Is half a character in any text of a JSON value, names among them?"""
    texts = (text for level in levels(value) for each in level for text in (each if isinstance(each, dict) else [each]))
    return any(isinstance(text, str) and is_half(text) for text in texts)


def is_half(text: str) -> bool:
    """Has the text a character that is half of one, as ``"\\ud800"`` in JSON and a file's name that is not UTF-8 make it?"""
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def is_within(name: Any) -> bool:
    """Is this the name of a file below a directory, spelled in one way only? Not ``/a``, ``../a``, ``a/../b`` or ``./a``."""
    return isinstance(name, str) and "\0" not in name and not {"", ".", ".."} & {*name.split("/")}


def shortened(value: Any) -> str:
    """Cut the value so that it may stand in one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def refuse_constant(name: str) -> NoReturn:
    """Raises ValueError for NaN and Infinity, which ``json.loads`` would take."""
    raise ValueError(f"{name} is no JSON")
