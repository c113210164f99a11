"""The server: uvicorn, told to answer in JSON what is no HTTP, not to wait for ever for a head, and to end well.

LitServe was measured beside it (docs/deploying.md): it stands on FastAPI and computes in a process of its own, to which each
input is handed over, and answers more requests a second for it; a queue with an end and Retry-After, the seconds of a head, and
one line of JSON for each mistake would be ours to write all the same. Next: command.py.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from engine.console import say
from engine.errors import ResourceError, UsageError
from engine.serving.app import Service

DRAIN = 0.5  # seconds in which connections that are open are still read after a signal, each answer being their last
GRACE = 5.0  # seconds beyond the time of a request after which the end no longer waits
LONGEST_HEAD = 16 << 10  # bytes


class Protocol(H11Protocol):
    """A connection: uvicorn's own, but for what follows."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.service: Service = self.config.app  # type: ignore[assignment]
        self.head_timer: asyncio.TimerHandle | None = None
        self._expect_head()
        if len(self.connections) > self.service.max_connections:
            self.app = self.service.busy  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()
        elif self.head_timer is None and not self.transport.is_closing():
            self._expect_head()

    def pause_writing(self) -> None:
        """The client does not read; it has as long as a request."""
        self.unread_timer = self.loop.call_later(self.service.limits.seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_timer.cancel()
        super().resume_writing()

    def _expect_head(self) -> None:
        self.head_timer = self.loop.call_later(self.service.limits.seconds, self._too_slow)

    def _head_is_there(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _too_slow(self) -> None:
        self.head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "the head of the request did not arrive in time")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun and self.head_timer is None and not self.transport.is_closing():
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no valid HTTP request")

    def _refuse(self, status: int, line: str) -> None:
        """An answer without a request, and the end of the connection."""
        body = json.dumps({"error": line}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        try:
            for event in (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))  # type: ignore[arg-type]
        except h11.LocalProtocolError:  # an answer is on its way already
            pass
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's, which ends later: who has connected in time is answered."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            say(f"serving at {address(listener)} (Ctrl-C ends it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections; what comes on open ones in the next moment is answered, and is the last on each."""
        self.service.is_draining = True
        for server in self.servers:
            server.close()
        until = time.monotonic() + DRAIN
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def address(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError, ResourceError."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: there is no such address ({error})") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = f"--host {host} --port {port}: {error.strerror}"
        if isinstance(error, PermissionError):
            raise ResourceError(f"{reason}: take a port above 1023") from error
        raise UsageError(f"{reason}: name another, or --port 0 for any that is free") from error
    return listener


def made(service: Service, *, seconds: float, max_connections: int) -> Server:
    """A server, not yet started."""
    config = uvicorn.Config(
        service, http=Protocol, ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
        access_log=False, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=LONGEST_HEAD, timeout_keep_alive=30, backlog=2048,
        timeout_graceful_shutdown=max(1, round(seconds + GRACE)),
    )  # fmt: skip
    service.max_connections = max_connections
    return Server(config, service)


def run(server: Server, listener: socket.socket) -> bool:
    """Answer until SIGTERM or SIGINT, then what has been accepted. True: all of it; False: it was told twice to end."""
    with ends_by_signal(server):
        server.run(sockets=[listener])
    server.service.batcher.close(wait=not server.force_exit)
    return not server.force_exit


@contextmanager
def ends_by_signal(server: Server) -> Iterator[None]:
    """uvicorn raises the signals that it has heard once more when it has ended; they are to end this process no sooner."""

    def end(*_: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
