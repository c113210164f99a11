"""A run's directory given another model, in one step, and back.

    runs/x            the model in use; at no moment is there none
    runs/x.update     one that is being trained, or was not kept
    runs/x.before     that which the last update has replaced

The step that counts exchanges two names (atomic.exchange). What is left to do behind it is tidying, which the next call does
if this one is killed. Next: command.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from engine import atomic
from engine.artifacts.directory import UPDATE, holds_run, is_finished, read_run, write_run
from engine.checked import expect, parse_object, read_bytes
from engine.errors import ResourceError, UsageError
from engine.findings.profile import weights_of

FORMAT = 1


def trained_in(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.update")


def kept_in(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.before")


def write_verdict(folder: Path, verdict: dict[str, Any], replaces: str | None) -> None:
    """update.json: what was decided, and the hash of the weights that this model takes the place of. Raises OSError."""
    text = json.dumps({"format": FORMAT, **verdict, "replaces": replaces}, indent=1, allow_nan=False) + "\n"
    atomic.write(folder / UPDATE, text)


def replaced_by(directory: Path) -> str | None:
    """The hash of the weights that the model there has taken the place of; None: it has not, or nobody knows."""
    try:
        found = parse_object(read_bytes(directory / UPDATE))
        is_kept = expect(found, "kept", str) == "new"
        return expect(found, "replaces", str, optional=True) if is_kept else None
    except (OSError, ValueError):
        return None


def put_in_place(directory: Path, verdict: dict[str, Any]) -> None:
    """The model that was trained takes the place of the one there, which stays beside it. Raises ResourceError, UsageError."""
    new, before = trained_in(directory), kept_in(directory)
    refuse_others(before)
    write_verdict(new, verdict, weights_of(read_run(directory).files))
    exchanged(directory, new)
    finish(directory)


def refuse_others(before: Path) -> None:
    """Raises UsageError for a folder of that name which is no run: it would be deleted."""
    if before.is_symlink() or (before.exists() and not (before.is_dir() and holds_run(before))):
        raise UsageError(f"{before} is in the way of the model that is replaced, and is no run: move it away")


def exchanged(one: Path, other: Path) -> None:
    """Raises ResourceError where the file system cannot do it in one step; then nothing has changed."""
    try:
        atomic.exchange(one, other)
    except OSError as error:
        raise ResourceError(
            f"{one} and {other} cannot be exchanged in one step ({error.strerror}); both are whole: rename them yourself"
        ) from error


def finish(directory: Path) -> None:
    """What a call that was killed behind the exchange has left to do, if one was: each step may be done again."""
    old, before = trained_in(directory), kept_in(directory)
    replaced = replaced_by(directory)
    if replaced is not None and is_run(old) and weights_of(read_run(old).files) == replaced:
        document = read_run(directory)
        settings = dict(document.settings) | {"model": str(before), "output_dir": str(directory)}
        write_run(directory, dataclasses.replace(document, settings=settings))
        if before.exists():
            refuse_others(before)
            os.rename(before, before.with_name(f"{before.name}.{secrets.token_hex(4)}.tmp"))
        os.rename(old, before)
        atomic.sync(directory.parent)
    for leftover in directory.parent.glob(f"{glob_safe(before.name)}.????????.tmp"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)


def is_run(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and holds_run(folder) and is_finished(folder)


def glob_safe(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def roll_back(directory: Path) -> Path:
    """The model before the last update is put back; the other stands beside it then. Raises UsageError, ResourceError."""
    before = kept_in(directory)
    if not is_run(before):
        raise UsageError(f"{before} holds no finished run: no update has replaced a model there that could be put back")
    exchanged(directory, before)
    return before
