"""``--print-completion SHELL``: a script by which a shell completes commands, tasks, flags and their values. No torch in here.

shtab writes it, once, so that a press of the tab key starts no Python. A shell knows no flags that depend on the value of
another: with ``--task`` it offers those of all tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from engine.errors import UsageError
from engine.installed import install

SHELLS = ("bash", "zsh", "fish")
FOLDERS = {"output_dir", "image_folder"}
FILES = {"config", "save_config", "model", "data", "input", "output", "file", "corpus", "picture", "errors", "texts"}


def completion(
    shell: str, kinds: Sequence[type], tasks: Mapping[str, tuple[str, str, str]], commands: Mapping[str, tuple[str, str, str]]
) -> str:
    """The script. ``tasks``, ``commands``: by name, where their flags are and a line of help. Raises UsageError."""
    if shell not in SHELLS:
        raise UsageError(f"--print-completion takes {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, found {shell!r}")
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise UsageError(f"--print-completion needs the package shtab: {install('completion')}") from error
    parser = argparse.ArgumentParser("plainloop", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="versions of Plainloop, torch and transformers")
    parser.add_argument("--print-completion", choices=SHELLS, help="a script for the shell, and end")
    add_flags(parser, [*kinds, *(found_at(place) for place, _, _ in tasks.values())], {"task": tuple(tasks)})
    names = parser.add_subparsers()
    for name, (place, _, text) in commands.items():
        own = names.add_parser(name, help=text)
        add_flags(own, [found_at(place)], {"task": tuple(tasks)})
        complete(own.add_argument("texts", nargs="*"), "texts")
    return str(shtab.complete(parser, shell))


def found_at(place: str) -> type:
    """What ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def add_flags(parser: argparse.ArgumentParser, kinds: Iterable[type], values: Mapping[str, tuple[str, ...]]) -> None:
    """Each field of these dataclasses once, and the parser's own flags. ``values``: those of a field that names something."""
    seen = set()
    for name in ("config", "save_config"):
        complete(parser.add_argument(f"--{name.replace('_', '-')}", help="settings in a file"), name)
    for kind in kinds:
        types = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name in seen:
                continue
            seen.add(field.name)
            more: dict[str, Any] = {"action": "store_true"} if field.default is False else {}
            if choices := values.get(field.name) or (
                get_args(types[field.name]) if get_origin(types[field.name]) is Literal else ()
            ):
                more["choices"] = choices
            text = field.metadata.get("help", "").replace("%", "%%")
            complete(parser.add_argument(f"--{field.name.replace('_', '-')}", help=text, **more), field.name)


def complete(action: Any, name: str) -> None:
    """Say that its value is a file or a folder, if it is one."""
    import shtab

    if name in FOLDERS:
        action.complete = shtab.DIRECTORY
    elif name in FILES or name.endswith("_file"):
        action.complete = shtab.FILE
