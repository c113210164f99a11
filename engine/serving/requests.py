"""From the body of a request to inputs of the task: read within limits, each value of the form that the task shows.

Whatever is wrong is one line with its status. What a client has sent is quoted to that client alone, and never logged.
Next: app.py.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from engine.checked import each_once, parse_json
from engine.console import one_line
from engine.data.form import Columns

JSON = "application/json"
MOST_ENTRIES = 1024  # of a list within an input: passages, words, messages
READ_ON = 4  # so many times the largest body is read of one that is too large: who still writes hears no answer


class Refused(Exception):
    """An answer other than the one asked for: status, one line, and headers."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None):
        super().__init__(one_line(line))
        self.status, self.line, self.headers = status, one_line(line), dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """Of one request: bytes of its body, inputs in it, characters of each, and seconds from its first line to its answer."""

    body: int
    texts: int
    characters: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """What a request wants: ``rows``, the inputs by column, so many; ``streams``: the text as it is written."""

    rows: Columns
    number: int
    streams: bool


def kind_of_body(request: Request) -> str:
    """Its media type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits, deadline: float, *, pictures: bool = False) -> bytes:
    """The body, JSON, or where ``pictures`` are taken one of them. Raises Refused for one of another type, one that is too
    large, or too slow; ClientDisconnect."""
    kind = kind_of_body(request)  # a page of somebody else's can send none of these without asking: no forgery across sites
    if kind != JSON and not (pictures and kind.startswith("image/")):
        more = ", or a picture, with Content-Type: image/jpeg say" if pictures else ""
        raise Refused(415, f"the body must be JSON: send the header Content-Type: application/json{more}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body must not be compressed: leave Content-Encoding out")
    too_large = Refused(413, f"the body must be at most {limits.body} bytes", {"Connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.body and "expect" in request.headers:
        raise too_large  # before it is sent
    parts, size = [], 0
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            async for part in request.stream():
                size += len(part)
                if size <= limits.body:
                    parts.append(part)
                elif size > READ_ON * limits.body:
                    break
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {limits.seconds:g} s", {"Connection": "close"}) from None
    if size > limits.body:
        raise too_large
    return b"".join(parts)


def parse(body: bytes, shapes: Sequence[Mapping[str, Any]], limits: Limits) -> Asked:
    """``{"inputs": one or a list of them, "stream": true or false}``. ``shapes``: examples of inputs. Raises Refused."""
    try:
        found = parse_json(body, pairs=each_once)
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except ValueError as error:
        raise Refused(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(422, 'the body must be an object: {"inputs": ...}')
    if unknown := [name for name in found if name not in ("inputs", "stream")]:
        raise Refused(422, f'unknown name {unknown[0]!r:.60}: there are "inputs" and "stream"')
    if "inputs" not in found:
        raise Refused(422, 'the body must have "inputs", one or a list of them')
    streams = found.get("stream", False)
    if not isinstance(streams, bool):
        raise Refused(422, f"stream must be true or false, found {streams!r:.60}")
    items = found["inputs"] if isinstance(found["inputs"], list) else [found["inputs"]]
    if not items:
        raise Refused(422, "inputs is empty: give one or more")
    if len(items) > limits.texts:
        raise Refused(413, f"a request may have at most {limits.texts} inputs, found {len(items)}")
    if streams and len(items) > 1:
        raise Refused(422, f"stream is for one input, found {len(items)}")
    rows = [row_of(item, number, shapes) for number, item in enumerate(items, start=1)]
    for number, row in enumerate(rows, start=1):
        if row.keys() != rows[0].keys():
            raise Refused(422, f"input {number} has other names than input 1: send them in a request of their own")
        check_size(row, number, limits)
    return Asked({name: [row[name] for row in rows] for name in rows[0]}, len(rows), streams)


def takes_pictures(shapes: Sequence[Mapping[str, Any]]) -> bool:
    """Is an input one picture, and nothing else?"""
    return len(shapes[0]) == 1 and isinstance(next(iter(shapes[0].values())), bytes)


def picture_alone(body: bytes, shapes: Sequence[Mapping[str, Any]]) -> Asked:
    """A body that is the only input. Raises Refused for an empty one."""
    if not body:
        raise Refused(422, "the body is empty: send a picture")
    [name] = shapes[0]
    return Asked({name: [given(body)]}, 1, streams=False)


def given(value: Any) -> Any:
    """What ``inputs_of`` reads: of bytes what a cell of a data set has that holds a picture."""
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value


def decoded(value: Any) -> bytes | None:
    """Of base64, which may begin as a data address of a browser does; None: it is none."""
    if not isinstance(value, str):
        return None
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True) or None
    except ValueError:
        return None


def row_of(item: Any, number: int, shapes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """An input by column; a text, or a picture, by itself is that of the only column. Raises Refused unless it fits one of the
    shapes."""
    if isinstance(item, str) and len(shapes[0]) == 1:
        item = dict.fromkeys(shapes[0], item)
    if not isinstance(item, dict):
        alone = f"{kind_of(next(iter(shapes[0].values())))}, or " if len(shapes[0]) == 1 else ""
        raise Refused(422, f"input {number} must be {alone}an object with {in_words(shapes)}, found {item!r:.60}")
    alike = [shape for shape in shapes if shape.keys() == item.keys()]
    if not alike:
        raise Refused(
            422, f"input {number} must have {in_words(shapes)}, found {', '.join(map(str, item)) or 'nothing'!s:.200}"
        )
    for name, value in item.items():
        if not any(fits(value, shape[name]) for shape in alike):
            kinds = " or ".join(dict.fromkeys(kind_of(shape[name]) for shape in alike))
            raise Refused(422, f"input {number}: {name} must be {kinds}, found {value!r:.60}")
    return {name: given(decoded(value)) if isinstance(alike[0][name], bytes) else value for name, value in item.items()}


def in_words(shapes: Sequence[Mapping[str, Any]]) -> str:
    """``question and context``; of several forms ``query and passage, or query and passages``."""
    return ", or ".join(dict.fromkeys(" and ".join(shape) for shape in shapes))


def kind_of(example: Any) -> str:
    """What such a value is called."""
    if isinstance(example, list):
        return "a list of texts" if isinstance(example[0], str) else f"a list of objects with {' and '.join(example[0])}"
    return "a picture in base64" if isinstance(example, bytes) else "a text"


def fits(value: Any, example: Any) -> bool:
    """Is the value of the kind of the example: a text, a picture, a list of such, an object with the same names of such?"""
    if isinstance(example, bytes):
        return decoded(value) is not None
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(fits(each, example[0]) for each in value)
    if isinstance(example, dict):
        return isinstance(value, dict) and value.keys() == example.keys() and all(fits(value[k], example[k]) for k in example)
    return isinstance(value, str)


def check_size(row: Mapping[str, Any], number: int, limits: Limits) -> None:
    """Raises Refused for an input of too many characters, or with a list of too many entries."""
    size = 0
    for name, value in row.items():
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):  # a picture: the body's size limits it
            continue
        entries = value if isinstance(value, list) else [value]
        if len(entries) > MOST_ENTRIES:
            raise Refused(413, f"input {number}: {name} may have at most {MOST_ENTRIES} entries, found {len(entries)}")
        size += sum(len(text) for entry in entries for text in (entry.values() if isinstance(entry, dict) else [entry]))
    if size > limits.characters:
        raise Refused(413, f"input {number} may have at most {limits.characters} characters, found {size}")
