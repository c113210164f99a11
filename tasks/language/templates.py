"""Chat templates are programs, written by whoever made the model: they run in a process of their own, within limits.

transformers renders them in a sandbox, which keeps them from files and from Python, but lets them take all the time and memory
there is (``range(99999)`` within ``range(99999)``). A forked process can be ended whatever it does. Next: sft.py, generate.py.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jinja2

from engine.checked import parse_json
from engine.data.cache import say_once
from engine.errors import DataError

T = TypeVar("T")
SECONDS = 10  # for one conversation, which takes milliseconds
MOST_MEMORY = 1 << 30  # bytes on top of what this process has
LONGEST = 64 << 20  # bytes of what one conversation becomes


class TemplateError(ValueError):
    """What went wrong in a template, in words."""


def within_limits(render: Callable[[T], Any], items: Sequence[T]) -> Iterator[Any]:
    """``render`` of each item, which must be what JSON can hold.

    Raises TemplateError at the first that fails or takes too long, and the DataError that ``render`` itself raises.
    """
    if not hasattr(os, "fork"):
        say_once("chat templates are read without limits of time and memory: this system cannot fork a process for them")
        yield from map(_alone(render), items)
        return
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child uses none of theirs
        child = os.fork()
    if child == 0:
        _answer(render, items, writing)
    os.close(writing)
    rest = b""
    try:
        for _ in items:
            line, rest = _line(reading, rest)
            answer = parse_json(line, halves=True)  # of texts that data have brought along
            if "error" in answer:
                raise (DataError if answer["is_ours"] else TemplateError)(answer["error"])
            yield answer["found"]
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _alone(render: Callable[[T], Any]) -> Callable[[T], Any]:
    """``render`` in this process, with the errors that the other one would tell of."""

    def rendered(item: T) -> Any:
        answer = _found(render, item)
        if "error" in answer:
            raise (DataError if answer["is_ours"] else TemplateError)(answer["error"])
        return answer["found"]

    return rendered


def _line(reading: int, rest: bytes) -> tuple[bytes, bytes]:
    """The next line, and what has come behind it."""
    until = time.monotonic() + SECONDS
    parts, size = [rest], len(rest)
    while b"\n" not in parts[-1]:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TemplateError(f"it takes more than {SECONDS} seconds")
        parts.append(os.read(reading, 1 << 20))
        size += len(parts[-1])
        if not parts[-1]:
            raise TemplateError("it has ended its process")
        if size > LONGEST:
            raise TemplateError(f"it makes more than {LONGEST >> 20} MiB")
    line, _, rest = b"".join(parts).partition(b"\n")
    return line, rest


def _answer(render: Callable[[T], Any], items: Sequence[T], writing: int) -> NoReturn:
    """The child: a line of JSON for each item, the last of them for one that fails."""
    try:
        import resource

        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with suppress(OSError, ValueError):  # where there is no /proc
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        with os.fdopen(writing, "wb") as stream:
            for item in items:
                signal.alarm(2 * SECONDS)  # should nobody wait any more
                answer = _found(render, item)
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()
                if "error" in answer:
                    break
    finally:
        os._exit(0)


def _found(render: Callable[[T], Any], item: T) -> dict[str, Any]:
    """What becomes of one conversation, or the error in words."""
    try:
        return {"found": render(item)}
    except MemoryError:
        return {"error": f"it takes more than {MOST_MEMORY >> 30} GiB of memory", "is_ours": False}
    except Exception as error:  # a program may raise anything
        reason = " ".join(str(error).split())[:300]
        kind = "" if isinstance(error, DataError | jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"error": kind + reason, "is_ours": isinstance(error, DataError)}
