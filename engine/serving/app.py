"""The application: what each path answers, who may ask, and one line of the log for each request, without its contents.

On Starlette. FastAPI, which stands on it, was weighed: it would make the OpenAPI document of a model of the body, but the
forms of the inputs are the task's and known only when the model is open; it reads a body whole before it counts it, answers a
mistake with a list instead of a line, and its pages load scripts from another host. Nothing of ours would go. Next: server.py.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from torch import nn

from engine.console import counted, kept_notes, note
from engine.data.collate import Layout
from engine.errors import UserError
from engine.findings.input_log import InputLog
from engine.model.projected import attach
from engine.serving.batcher import Batcher, FullError, GoneError, Job, LateError, is_of_the_request
from engine.serving.metrics import CONTENT_TYPE, Metrics
from engine.serving.pages import Pages
from engine.serving.requests import (
    Asked,
    Limits,
    Refused,
    given,
    kind_of_body,
    parse,
    picture_alone,
    read_body,
    takes_pictures,
)
from engine.task import Task

OPEN = ("/", "/health", "/health/live", "/health/ready")  # without a token: they say nothing of the model but its task
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Access:
    """Who may ask. ``token``: the one that a request must bring, None: none; ``hosts``: names under which the server may be
    called, None: any. A page of the internet whose name leads to this machine calls it under that name."""

    token: str | None = None
    hosts: frozenset[str] | None = None


class Service:
    """A model behind HTTP: an ASGI application."""

    def __init__(
        self, task: Task[Any], model: nn.Module, layout: Layout, *, name: str, limits: Limits, access: Access = Access(),
        max_batch: int = 32, max_waiting: int = 1024, logs: bool = True, debug: bool = False,
        profile_log: InputLog | None = None,
    ):  # fmt: skip
        self.task, self.limits, self.access, self.logs, self.debug = task, limits, access, logs, debug
        self.shapes = task.served()
        self.metrics = Metrics()
        if profile_log is not None:
            attach(model)
        self.batcher = Batcher(task, model, layout, max_batch=max_batch, max_waiting=max_waiting, watch=self.metrics)
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)
        self.is_draining = False
        self.max_connections = 512  # which the server counts
        answers = [self._first_answer(shape) for shape in self.shapes]
        self.metrics.count_tokens(model)
        self.metrics.expect(task.label_names(model) if any("label" in answer for answer in answers) else ())
        kept = "" if profile_log is None else "texts" if profile_log.keeps_inputs else "numbers"
        self.pages = Pages(name, task, self.shapes, answers, limits, has_token=access.token is not None, kept=kept)
        if profile_log is not None:  # behind the examples, which nobody has asked
            self.batcher.log = lambda inputs, reads, said: profile_log.add(inputs, reads, lambda: task.observed(inputs, said))
        self.app = self._routes()
        self.paths = {getattr(route, "path", "") for route in self.app.routes}

    def _first_answer(self, shape: Mapping[str, Any]) -> dict[str, Any]:
        """Of an example: a model that does not work is told before anybody asks, and the document has an answer to show."""
        with kept_notes():
            inputs = self.task.inputs_of({name: [given(value)] for name, value in shape.items()})
        job = Job(inputs, time.monotonic() + 600)
        self.batcher.submit(job)
        return job.answer.result()[0]

    def _routes(self) -> Starlette:
        routes: list[tuple[str, Endpoint, str]] = [
            ("/", self.page, "GET"),
            ("/docs", self.document_page, "GET"),
            ("/openapi.json", self.document, "GET"),
            ("/health", self.ready, "GET"),
            ("/health/ready", self.ready, "GET"),
            ("/health/live", self.live, "GET"),
            ("/metrics", self.figures, "GET"),
            ("/predict", self.predict, "POST"),
        ]
        handlers: dict[Any, Any] = {Refused: refused, HTTPException: not_found, Exception: failed}
        app = Starlette(
            routes=[Route(path, endpoint, methods=[method]) for path, endpoint, method in routes], exception_handlers=handlers
        )
        app.router.redirect_slashes = False  # it would send a client on by the name that the client has called us
        return app

    # ------------------------------------------------------------------------------------------------- every request

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, count and log one request. An error that nobody has foreseen is an answer and a line, too."""
        if scope["type"] != "http":
            return await self._lifespan(scope, receive, send)
        start, status = time.monotonic(), 499  # nobody waited for an answer
        path = scope["path"] if scope["path"] in self.paths else "(other)"  # what a client makes up is not logged
        scope["start"] = start

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
                if self.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if (refusal := self._refusal(scope)) is not None:
                await as_response(refusal)(scope, receive, watched)
            else:
                await self.app(scope, receive, watched)
        except (ClientDisconnect, OSError):
            status = 499
        except Exception as error:
            self._say_failure(error)
        finally:
            seconds = time.monotonic() - start
            self.metrics.requests.labels(path, status).inc()
            if path == "/predict":
                self.metrics.seconds.observe(seconds)
            if self.logs:
                client = (scope.get("client") or ("-",))[0]
                what = f", {counted(scope['inputs'], 'input')}" if "inputs" in scope else ""
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "(other)"
                note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {client} {method} {path} {status}, {1000 * seconds:.1f} ms{what}")

    async def busy(self, scope: Any, receive: Any, send: Any) -> None:
        """The application of a connection too many."""
        line = f"there are {self.max_connections} connections, the most that there may be: ask again"
        scope["refusal"] = Refused(503, line, {"Retry-After": "1", "Connection": "close"})
        await self(scope, receive, send)

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        """A start and an end; there are no web sockets."""
        if scope["type"] != "lifespan":
            return await send({"type": "websocket.close", "code": 1000})  # type: ignore[no-any-return]
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _refusal(self, scope: Any) -> Refused | None:
        """Why this client, or under this name, is not answered; None: it is."""
        if (refusal := scope.get("refusal")) is not None:
            return refusal  # type: ignore[no-any-return]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.access.hosts is not None and host_in(headers.get("host", "")) not in self.access.hosts:
            return Refused(421, "this server does not answer to this name: --allow-host NAME adds one")
        if self.access.token is None or scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self.access.token.encode())
        if kind.lower() == "bearer" and is_right:
            return None
        return Refused(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    def _say_failure(self, error: BaseException) -> None:
        """Where it failed, and never with what: the message may quote a text."""
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" in {Path(frame.filename).name}, line {frame.lineno}" for frame in place)
        note(f"a request failed: {type(error).__name__}{where}{'' if self.debug else ' (--debug shows the way there)'}")
        if self.debug:
            for line in "".join(traceback.format_tb(error.__traceback__)).splitlines():
                note(line)

    # --------------------------------------------------------------------------------------------------------- paths

    async def page(self, request: Request) -> Response:
        return Response(self.pages.page, media_type="text/html", headers=self.pages.policy)

    async def document_page(self, request: Request) -> Response:
        return Response(self.pages.document_page, media_type="text/html", headers=self.pages.policy)

    async def document(self, request: Request) -> Response:
        return as_json(self.pages.document)

    async def live(self, request: Request) -> Response:
        return as_json({"live": self.batcher.is_alive}, 200 if self.batcher.is_alive else 503)

    async def ready(self, request: Request) -> Response:
        """Does it answer, and has the queue room?"""
        is_live = self.batcher.is_alive
        is_ready = is_live and not self.is_draining and self.batcher.waiting < self.batcher.max_waiting
        found = {"live": is_live, "ready": is_ready}
        return as_json(found, 200 if is_ready else 503)

    async def figures(self, request: Request) -> Response:
        return Response(self.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def predict(self, request: Request) -> Response:
        """The predictions of the inputs, in their order; or the text of one while it is written."""
        deadline = request.scope["start"] + self.limits.seconds
        pictures = takes_pictures(self.shapes)
        body = await read_body(request, self.limits, deadline, pictures=pictures)
        is_picture = kind_of_body(request).startswith("image/")
        asked = picture_alone(body, self.shapes) if is_picture else parse(body, self.shapes, self.limits)
        request.scope["inputs"] = asked.number
        inputs = self._inputs(asked)
        if asked.streams:
            return await self._streamed(inputs[0], deadline)
        job = Job(inputs, deadline)
        self._submit(job)
        predictions = await self._answer(job, request)
        self.metrics.predicted(predictions)
        try:
            return as_json({"predictions": predictions})
        except ValueError as error:
            raise Refused(500, "the model gives no finite numbers for this: its weights have diverged") from error

    def _inputs(self, asked: Asked) -> list[Any]:
        """What ``predict`` of the task takes. Raises Refused with what the task says."""
        with kept_notes() as notes:
            try:
                inputs = self.task.inputs_of(asked.rows)
            except UserError as error:
                raise Refused(422, str(error)) from None
        self.metrics.noted(notes)
        return inputs

    def _submit(self, job: Job) -> None:
        try:
            self.batcher.submit(job)
        except FullError as error:
            raise Refused(429, str(error), {"Retry-After": str(error.seconds)}) from None

    async def _answer(self, job: Job, request: Request) -> list[dict[str, Any]]:
        """Wait for it, until its time is over or nobody waits any more. Raises Refused, ClientDisconnect."""
        answer, gone = asyncio.wrap_future(job.answer), asyncio.ensure_future(is_left(request))
        try:
            await asyncio.wait((answer, gone), timeout=job.deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return self._result(answer)
            if gone.done():
                raise ClientDisconnect
            raise self._late()
        finally:
            answer.cancel()  # if it has not begun, it is not computed
            gone.cancel()

    def _result(self, answer: asyncio.Future[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Raises Refused for what went wrong."""
        error = answer.exception()
        if error is None:
            return answer.result()
        if isinstance(error, LateError):
            raise self._late()
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise Refused(503, "the inputs take more memory than there is: send fewer, or shorter ones", {"Retry-After": "1"})
        if not is_of_the_request(error):
            self._say_failure(error)
            raise Refused(500, "the model fails with this input; the server's log says where")
        raise Refused(422, str(error))

    def _late(self) -> Refused:
        return Refused(
            503, f"there is no answer within {self.limits.seconds:g} s: ask again, or for less", {"Retry-After": "1"}
        )

    # ----------------------------------------------------------------------------------------------------- streaming

    async def _streamed(self, item: Any, deadline: float) -> Response:
        """Server-sent events: ``part`` with a piece of the text each, then ``end`` with the prediction, or ``error``."""
        loop, parts = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        job = Job([item], deadline)
        is_left = False

        def part(text: str) -> None:
            if is_left or time.monotonic() >= deadline:
                raise GoneError
            if text:
                loop.call_soon_threadsafe(parts.put_nowait, text)

        job.part = part
        job.answer.add_done_callback(lambda _: loop.call_soon_threadsafe(parts.put_nowait, None))
        self._submit(job)
        answer = asyncio.wrap_future(job.answer)
        try:  # what is refused now has its status yet
            first = await asyncio.wait_for(parts.get(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            answer.cancel()
            raise self._late() from None
        if first is None and (await settled(answer)).exception() is not None:
            self._result_of_stream(answer)

        async def events() -> AsyncIterator[bytes]:
            nonlocal is_left
            text = first
            try:
                while text is not None:
                    yield event("part", {"text": text})
                    text = await parts.get()
                try:
                    [prediction] = self._result_of_stream(await settled(answer))
                    self.metrics.predicted([prediction])
                    yield event("end", {"prediction": prediction})
                except Refused as refusal:
                    yield event("error", {"error": refusal.line})
            finally:
                is_left = True
                answer.cancel()

        return StreamingResponse(events(), media_type="text/event-stream")

    def _result_of_stream(self, answer: asyncio.Future[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Raises Refused; a stream is ended by its deadline, too."""
        if isinstance(answer.exception(), GoneError):
            raise self._late()
        return self._result(answer)


async def is_left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def settled(answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """The future, which has its result or its error."""
    await asyncio.wait((answer,))
    return answer


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One of server-sent events."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


def host_in(header: str) -> str:
    """The name of a Host header, without its port."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdecimal() else header).strip("[]").lower()


def as_json(found: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Raises ValueError for what JSON has no form for: NaN, infinity."""
    content = json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, status, headers, media_type="application/json")


def as_response(refusal: Refused) -> Response:
    return as_json({"error": refusal.line}, refusal.status, refusal.headers)


async def refused(request: Request, error: Refused) -> Response:
    return as_response(error)


async def not_found(request: Request, error: HTTPException) -> Response:
    line = {404: "there is nothing here: /docs says what there is", 405: "this path takes another method: /docs says which"}
    return as_response(Refused(error.status_code, line.get(error.status_code, error.detail), error.headers))


async def failed(request: Request, error: Exception) -> Response:
    return as_response(Refused(500, "the server has failed with this request; its log says where"))
