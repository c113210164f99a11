"""A client of many connections, each of which asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Write = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reply(NamedTuple):
    """``status`` 0: there was none. ``body``: as JSON; ``seconds``: between the request and its answer."""

    status: int
    body: Any
    seconds: float


def request(body: Any, path: str = "/predict", headers: str = "") -> bytes:
    """The bytes of a POST of JSON."""
    content = json.dumps(body).encode()
    kind = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}{headers}\r\n".encode() + content


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection goes on. Raises EOFError, OSError."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    return int(head.split(" ", 2)[1]), body, fields.get("connection") != "close"


@dataclass
class Client:
    """``replies``: of each request, in its place; those that were not sent have none (None)."""

    host: str
    port: int
    requests: Sequence[bytes]
    connections: int
    on_reply: Callable[[int], None] = lambda number: None

    def __post_init__(self) -> None:
        self.replies: list[Reply | None] = [None] * len(self.requests)
        self.refused = 0  # connections that nobody took

    def run(self) -> float:
        """Send all; returns the seconds."""
        start = time.perf_counter()
        asyncio.run(self._run())
        return time.perf_counter() - start

    async def _run(self) -> None:
        numbers = iter(range(len(self.requests)))
        await asyncio.gather(*(self._ask(numbers) for _ in range(self.connections)))

    async def _ask(self, numbers: Iterator[int]) -> None:
        open_: Write | None = None
        for number in numbers:
            if open_ is None:
                try:
                    open_ = await asyncio.open_connection(self.host, self.port)
                except OSError:
                    self.refused += 1
                    return
            start = time.perf_counter()
            try:
                open_[1].write(self.requests[number])
                await open_[1].drain()
                status, body, goes_on = await answer(open_[0])
                self.replies[number] = Reply(status, json.loads(body), time.perf_counter() - start)
            except (OSError, EOFError):
                self.replies[number], goes_on = Reply(0, None, time.perf_counter() - start), False
            if not goes_on:
                open_[1].close()
                open_ = None
            self.on_reply(number)
        if open_ is not None:
            open_[1].close()
