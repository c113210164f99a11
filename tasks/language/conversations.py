"""Conversations as they come: messages of {role, content}, of {from, value} (ShareGPT), in parts, or as JSON in a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.checked import parse_json
from engine.errors import DataError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}  # of ShareGPT


def messages_in(cell: Any, where: str) -> list[dict[str, Any]]:
    """The messages of a cell, ``{"role": ..., "content": ...}`` each, with an answer among them. Raises DataError."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = parse_json(cell)
        except ValueError as error:
            raise DataError(f"{where}: the list of messages is not JSON ({error})") from error
    if not isinstance(cell, list) or not cell:
        raise DataError(f"{where}: a list of messages is needed, found {cell!r:.60}")
    messages = [message_of(message, where) for message in cell]
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message has the role 'assistant': there is nothing to learn")
    return messages


def message_of(message: Any, where: str) -> dict[str, Any]:
    """One message, whatever else it holds kept for the template. Raises DataError."""
    if isinstance(message, Mapping) and {"from", "value"} <= message.keys() and message.get("role") is None:
        if (role := ROLES.get(message["from"])) is None:
            raise DataError(f"{where}: a message is from {message['from']!r}, and known are {', '.join(ROLES)}: rename it")
        message = {"role": role, "content": message["value"]}
    if isinstance(message, Mapping) and message.get("tool_calls"):
        raise DataError(
            f"{where}: a message calls tools, which is not trained on: leave such rows out, or write calls and answers as "
            f"texts into 'content', found {shortened(message['tool_calls'])}"
        )
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        content = "".join(text_of(part, where) for part in content)
        message = {**message, "content": content}
    if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise DataError(f'{where}: a message must be {{"role": text, "content": text}}, found {message!r:.60}')
    return dict(message)


def text_of(part: Any, where: str) -> str:
    """Of a content in parts, one that is text. Raises DataError."""
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise DataError(f"{where}: a part of a message's content is no text, and texts are what is learned: {shortened(part)}")
    return str(part["text"])


def shortened(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
