"""What a command adds to a finished model after training: fields of its config.json, and sections of its card.

Both files are pushed. run.json knows the hash of config.json, without which a push refuses it, so it is written anew, too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from engine import atomic
from engine.artifacts.directory import locked, read_run, write_run
from engine.checked import parse_object, read_bytes
from engine.errors import ModelError, ResourceError, UsageError
from engine.settings.fields import user_path

CONFIG, RUN, CARD = "config.json", "run.json", "README.md"


def folder_to_change(name: str, flag: str) -> Path:
    """The directory of a model whose config.json may be written. Raises UsageError for a model of the Hub, and for a link."""
    directory = user_path(name)
    path = directory / CONFIG
    if not path.is_file() or path.is_symlink():
        what = "is a link" if path.is_symlink() else "is not there"
        raise UsageError(f"{flag} writes into the directory of a model, and {path} {what}: give that of a finished run")
    return directory


def change(directory: Path, fields: Mapping[str, Any]) -> None:
    """Set these fields of config.json; in a run its hash in run.json, too.

    Raises ModelError where the file is not the one that the run saved, but for these fields; ResourceError.
    """
    path = directory / CONFIG
    try:
        content = read_bytes(path)
        found = parse_object(content)
        text = written(found | dict(fields))
        if not (directory / RUN).exists():
            return atomic.write(path, text)
        with locked(directory):
            document = read_run(directory)
            if (saved := (document.files or {}).get(CONFIG)) is not None:
                if saved not in (digest(content), digest(written(without(found, fields)).encode())):
                    raise ModelError(f"{path} has been changed since it was saved: put back the file that the run wrote")
                document = dataclasses.replace(document, files={**(document.files or {}), CONFIG: digest(text.encode())})
            atomic.write(path, text)  # first: killed before the next line, the same command mends it
            write_run(directory, document)
    except ValueError as error:
        if isinstance(error, ModelError | UsageError):
            raise
        raise ModelError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error.strerror}") from error


def written(found: Mapping[str, Any]) -> str:
    """As transformers writes it."""
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def without(found: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def set_section(directory: Path, heading: str, text: str) -> None:
    """Write a section of the model card, in place of that of this heading or before "## Training"; "": none. Without a card
    there is nothing to do. Raises ResourceError."""
    path = directory / CARD
    if not path.is_file() or path.is_symlink():
        return
    try:
        card = read_bytes(path).decode()
        atomic.write(path, with_section(card, heading, text))
    except (OSError, ValueError) as error:
        raise ResourceError(f"{path} cannot be written anew: {getattr(error, 'strerror', None) or error}") from error


def with_section(card: str, heading: str, text: str) -> str:
    """Of a section without an end that somebody has put into a code block more would go than it holds: headings in blocks,
    which the cards of runs do not have, count as headings."""
    section = f"## {heading}\n\n{text}\n\n" if text else ""
    found = re.search(rf"(?ms)^## {re.escape(heading)}\n.*?(?=^## |\Z)", card)
    if found:
        return card[: found.start()] + section + card[found.end() :]
    at = re.search(r"(?m)^## Training$", card)
    place = at.start() if at else len(card)
    before = card[:place] if at or card.endswith("\n") else card + "\n"
    return before + ("" if at else "\n" * bool(section)) + section + card[place:]
