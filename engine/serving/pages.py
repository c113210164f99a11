"""What a person sees: the page to try the model on, the OpenAPI document, and the page that shows it. Nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine import VERSION
from engine.serving.batcher import CUT
from engine.serving.requests import MOST_ENTRIES, Limits, takes_pictures
from engine.task import Task

FOLDER = Path(__file__).parent
CUT_IN_WORDS = "only of an input that has more tokens than the model reads: so many of them were read, and the rest was not"
KEPT = {
    "": "what you send is computed on, and neither kept nor logged",
    "numbers": "what you send is computed on, and not kept; numbers that describe it are: lengths, rarity of words, the answer",
    "texts": "texts and answers are kept in a log",
}
STATUSES = {
    200: "the predictions, in the order of the inputs",
    400: "the body is no JSON, or the request no HTTP",
    401: "a token is needed",
    408: "the request came too slowly",
    413: "the body, an input, or their number is too large",
    415: "the body is of another type, or compressed",
    421: "the server does not answer to this name",
    422: "the inputs are not of the form that the task takes",
    429: "the queue is full: Retry-After says for how many seconds",
    500: "the model, or the server, fails with this input",
    503: "there was no answer in time, or the server ends: Retry-After says for how many seconds",
}


class Pages:
    """Made once, when the server starts. ``shapes``, ``answers``: examples of inputs and what the model says to them;
    ``kept``: what a log holds of inputs, "numbers" that describe them or "texts", too; "": there is none."""

    def __init__(
        self, name: str, task: Task[Any], shapes: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]],
        limits: Limits, *, has_token: bool, kept: str = "",
    ):  # fmt: skip
        streams = type(task).stream is not Task.stream
        self.document = document(name, task, shapes, answers, limits, streams=streams, has_token=has_token)
        script, style = ((FOLDER / file).read_text(encoding="utf-8") for file in ("page.js", "page.css"))
        self.policy = {
            "Content-Security-Policy": f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(style)}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Frame-Options": "DENY",
        }
        example = next(iter(shapes[0].values())) if len(shapes[0]) == 1 else dict(shapes[0])
        pictures = [column for column, value in shapes[0].items() if isinstance(value, bytes)]
        environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
        common: dict[str, Any] = {"name": name, "style": style, "has_token": has_token, "version": VERSION, "kept": KEPT[kept]}
        self.page = environment.get_template("page.html").render(
            common, script=script, kind=task.pipeline_tag, shape=shapes[0], cut=task.longest_input, limits=limits,
            call="" if pictures else json.dumps({"inputs": example}, ensure_ascii=False),
            told={"streams": streams, "pictures": pictures,
                  "lists": [name for name, value in shapes[0].items() if isinstance(value, list)]},
        )  # fmt: skip
        self.document_page = environment.get_template("docs.html").render(
            common, document=self.document, pretty=lambda value: json.dumps(value, ensure_ascii=False, indent=2)
        )


def allowed(text: str) -> str:
    """A source of a Content-Security-Policy: this text, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def document(
    name: str, task: Task[Any], shapes: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], limits: Limits,
    *, streams: bool, has_token: bool,
) -> dict[str, Any]:  # fmt: skip
    """The OpenAPI document. Its schemas are those of the examples."""
    inputs = [schema_of(shape, closed=True) for shape in shapes]
    if len(shapes[0]) == 1:
        [only] = shapes[0].values()
        inputs.insert(0, schema_of(only) if isinstance(only, bytes) else {"type": "string", "maxLength": limits.characters})
    one: dict[str, Any] = {"anyOf": inputs}
    properties: dict[str, Any] = {
        "inputs": {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": limits.texts}]}
    }
    if streams:
        what = "of one input: server-sent events, part with a piece of the text each, then end with the prediction, or error"
        properties["stream"] = {"type": "boolean", "default": False, "description": what}
    request = {"type": "object", "required": ["inputs"], "additionalProperties": False, "properties": properties}
    schemas = [schema_of(answer) for answer in answers]
    if task.longest_input is not None:
        for schema in schemas:
            schema["properties"] |= {CUT: {"type": "integer", "description": CUT_IN_WORDS}}
    found = {"type": "array", "items": {"anyOf": schemas}}
    response = {"type": "object", "required": ["predictions"], "properties": {"predictions": found}}
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    shown = [{name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in shape.items()}
             for shape in shapes]  # fmt: skip
    examples = {f"{number}": {"value": {"inputs": shape}} for number, shape in enumerate(shown, start=1)}
    alone = {"image/*": {"schema": {"type": "string", "format": "binary"}}} if takes_pictures(shapes) else {}
    cut = "" if task.longest_input is None else f" The model reads at most {task.longest_input} tokens of an input."
    most = f"A body may have {limits.body} bytes, a request {limits.texts} inputs, an input {limits.characters} characters"
    longest = f"a list in it {MOST_ENTRIES} entries; an answer comes within {limits.seconds:g} seconds, or none.{cut}"
    answered = {str(status): {"description": what, "content": content(error)} for status, what in STATUSES.items()}
    answered["200"]["content"] = {
        "application/json": {"schema": response, "example": {"predictions": [answers[0]]}},
        **({"text/event-stream": {"schema": {"type": "string"}}} if streams else {}),
    }
    predict = {
        "summary": "Predict one or many inputs",
        "description": f"{most}, {longest}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request, "examples": examples}, **alone}},
        "responses": answered,
    }
    bearer = {"components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}, "security": [{"bearer": []}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": VERSION, "description": f"{task.pipeline_tag or 'A model'}, served by Plainloop"},
        "paths": {"/predict": {"post": predict}} | {path: {"get": got} for path, got in others().items()},
        **(bearer if has_token else {}),
    }


def others() -> dict[str, dict[str, Any]]:
    """The operations of the other paths."""

    def get(summary: str, **statuses: str) -> dict[str, Any]:
        return {"summary": summary, "responses": {n.strip("_"): {"description": what} for n, what in statuses.items()}}

    return {
        "/health/live": get("Does the server answer?", _200="it does", _503="the model's thread is gone"),
        "/health/ready": get("Should requests be sent here?", _200="yes", _503="not now: the queue is full, or it ends"),
        "/health": get("The same", _200="live and ready", _503="not ready"),
        "/metrics": get("Figures for Prometheus", _200="its text format"),
        "/openapi.json": get("This document", _200="as JSON"),
    }


def content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def schema_of(value: Any, *, closed: bool = False) -> dict[str, Any]:
    """The JSON schema of values such as this one. ``closed``: objects have these names and no other, lists an entry."""
    if isinstance(value, bytes):
        return {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
    if isinstance(value, bool | str | None):
        return {"type": {bool: "boolean", str: "string"}.get(type(value), "null")}
    if isinstance(value, int | float):
        return {"type": "integer" if isinstance(value, int) else "number"}
    if isinstance(value, list | tuple):
        entries = [schema_of(each, closed=closed) for each in value]
        alike = [entry for number, entry in enumerate(entries) if entry not in entries[:number]]
        items = {"items": alike[0] if len(alike) == 1 else {"anyOf": alike}} if alike else {}
        return {"type": "array", **items, **({"minItems": 1} if closed else {})}
    properties = {str(name): schema_of(each, closed=closed) for name, each in value.items()}
    more: dict[str, Any] = {"required": [*properties], "additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, **more}
