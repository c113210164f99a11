"""Settings files: YAML as settings are meant, the settings of a run's run.json, places in a file, and how settings are written.

TOML and JSON have decoders in Python; PyYAML's is used for the grammar only: a value is the word that stands there, as on the
command line, so ``2e-5`` is a number, ``no`` is a text where a text is asked for, and nothing is constructed from a tag.
Next: config.py, which turns a file's settings into flags, so that they pass the same checks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import atomic
from engine.console import printable
from engine.errors import UsageError
from engine.settings.fields import in_order
from engine.settings.own import is_own

KINDS = {".toml": "TOML", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}
PLAIN = "tag:yaml.org,2002:"
TRUTHS = {"true": True, "false": False}


@dataclass(frozen=True)
class SettingsFile:
    """A file that ``--config`` names, read. ``values``: settings by name, with ``_``; ``is_run``: it is a run's run.json."""

    path: Path
    text: str
    values: dict[str, Any]
    is_run: bool = False

    def error(self, message: str, name: str = "", nth: int = 1) -> UsageError:
        """An error with the place of the setting's name, where it can be found."""
        where = place(self.text, name, nth) if name and not self.is_run else ""
        return UsageError(f"--config {self.path}{where}: {message}")

    @property
    def task(self) -> str | None:
        """The task that it names. Raises UsageError for one whose code a run.json would bring along."""
        name = self.values.get("task")
        if not isinstance(name, str | None):
            raise self.error(f"task must be text, found {name!r}", "task")
        if self.is_run and name is not None and is_own(name):
            raise self.error(f"its task is code of somebody's own, {printable(name)}: give it by hand, --task FILE.py:CLASS")
        return name


def kind_of(path: Path) -> str:
    """The form of a file, by the end of its name; TOML where that says nothing."""
    return KINDS.get(path.suffix.lower(), "TOML")


def place(text: str, name: str, nth: int = 1) -> str:
    """``, line 2, column 1``: of the ``nth`` time that a name is given in a file of settings; "" if it cannot be told."""
    spelled = "[-_]".join(map(re.escape, re.split("[-_]", name)))
    found = list(re.finditer(rf"(?:^|[{{,])[ \t]*(['\"]?{spelled}['\"]?)\s*[:=]", text, flags=re.MULTILINE))
    if len(found) < nth:
        return ""
    return f", {position(text, found[nth - 1].start(1))}"


def position(text: str, at: int) -> str:
    """``line 2, column 1``, both counted from 1."""
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def from_yaml(text: str) -> dict[str, Any]:
    """Settings of a YAML file: texts as they stand there, truths, None, and lists of texts.

    Raises ValueError with line and column: for what is no YAML, for a name given twice, and for what settings have no use
    for (tags, anchors, settings within settings).
    """
    import yaml

    def at(node: Any) -> str:
        return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("a setting cannot refer to another one (*)")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{error.reason} ({position(text, error.position)})") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or root.tag != f"{PLAIN}map":
        raise ValueError(f"it must hold settings by name ({at(root)})")
    found: dict[str, Any] = {}
    for key, value in root.value:
        name = word(key)
        if not isinstance(name, str):
            raise ValueError(f"a name must be text ({at(key)})")
        if name in found:
            raise ValueError(f"{name} is given twice: leave one of them out ({at(key)})")
        if isinstance(value, yaml.MappingNode):
            raise ValueError(f"{name} must be one text, number or truth, or a list of texts ({at(value)})")
        is_list = isinstance(value, yaml.SequenceNode) and value.tag == f"{PLAIN}seq"
        found[name] = [word(item) for item in value.value] if is_list else word(value)
    return found


def word(node: Any) -> Any:
    """A scalar as it stands there; true and false are truths, null and nothing None. Raises ValueError."""
    known = {PLAIN + name for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
    where = f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
    if node.tag not in known or not isinstance(node.value, str):
        raise ValueError(
            f"a setting must be one text, number or truth, found {printable(node.tag.removeprefix(PLAIN))} ({where})"
        )
    if node.style is not None or node.tag == f"{PLAIN}str":
        return node.value
    if node.tag == f"{PLAIN}null":
        return None
    if node.tag == f"{PLAIN}float" and node.value.lower().lstrip("+-") in (".inf", ".nan"):
        return node.value.replace(".", "")
    return TRUTHS.get(node.value.lower(), node.value)


# ------------------------------------------------------------------------------------------------------------ run.json


def is_run(values: Any) -> bool:
    """Is this what a run has written about itself?"""
    return isinstance(values, dict) and isinstance(values.get("settings"), dict) and {"status", "data"} <= values.keys()


def usable(file: SettingsFile, known: Iterable[str], local: Iterable[str]) -> tuple[dict[str, Any], str]:
    """The settings of a run.json that hold elsewhere, too, and a line about those that were left out ("": none)."""
    given = {name: value for name, value in file.values.items() if value is not None and value is not False}
    here = sorted(name for name in local if given.get(name, "auto") not in ("auto", 0))
    gone = sorted(name for name in given if name not in known)
    parts = [f"{', '.join(here)}, which belong to where it ran"] if here else []
    parts += [f"{', '.join(gone)}, which are no settings here"] if gone else []
    values = {name: value for name, value in file.values.items() if name in known and name not in local}
    return values, f"--config {file.path}: of that run's settings, left out: {'; '.join(parts)}" if parts else ""


# ------------------------------------------------------------------------------------------------------------- writing


def save_settings(path: Path, settings: Iterable[Any]) -> None:
    """Write dataclasses of settings, so that ``--config`` gives the same. TOML, JSON or YAML, by the end of the name.

    In TOML and YAML each has its help as a comment, and one that is not set stands in a comment. Raises UsageError.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--save-config must end in {', '.join(KINDS)}, found {str(path)!r}")
    fields = [(f.name, getattr(part, f.name), f.metadata.get("help", "")) for part in settings for f in in_order(type(part))]
    lines = [(name, None if value in ("", []) else value, text) for name, value, text in fields]
    written = WRITTEN[kind_of(path)](lines)
    if path.exists() or path.is_symlink():
        raise UsageError(f"--save-config {path} is there already: name another file, or remove it")
    try:
        atomic.write(path, written)
    except UnicodeEncodeError as error:
        raise UsageError(f"--save-config {path}: a setting holds what is no text: {error.reason}") from error
    except OSError as error:
        raise UsageError(f"--save-config {path} cannot be written: {error.strerror}") from error


Lines = list[tuple[str, Any, str]]  # name, value, help


def plain(value: Any) -> Any:
    """JSON has no infinity; the command line takes the word."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_toml(lines: Lines) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(shown, value))}]"
        return (
            json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str | bool) else repr(value)
        )

    return "".join(f"# {help}\n" + (f"# {n} =\n" if v is None else f"{n} = {shown(v)}\n") for n, v, help in lines)


def as_yaml(lines: Lines) -> str:
    import yaml

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(shown, value))}]"
        if isinstance(value, str):
            return str(yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True)).strip()
        return str(plain(value)).lower()

    return "".join(f"# {help}\n" + (f"# {n}:\n" if v is None else f"{n}: {shown(v)}\n") for n, v, help in lines)


def as_json(lines: Lines) -> str:
    return json.dumps({name: plain(value) for name, value, _ in lines}, indent=2) + "\n"


WRITTEN = {"TOML": as_toml, "YAML": as_yaml, "JSON": as_json}
