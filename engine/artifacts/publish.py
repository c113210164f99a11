"""The finished model saved, run.json that says so, and the pages about it, in this order: no page can keep a model from it.

Next: card.py and report.py, the pages; directory.py, who may write where; atomic.py, how a file is written.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from engine import atomic
from engine.artifacts import card
from engine.artifacts.directory import write_run
from engine.artifacts.document import RunDocument
from engine.artifacts.report import record_in, render
from engine.checkpoint.store import sha256
from engine.console import note
from engine.errors import ResourceError
from engine.findings import profile as data_profile
from engine.findings.profile import Profile
from engine.model import lora
from engine.record.log import read_log
from engine.task import Task


def write_model(
    directory: Path, task: Task[Any], model: nn.Module, document: RunDocument, profile: Profile | None = None
) -> None:
    """Model and processor file by file, each complete when it gets its name; then run.json, which lists them; then the profile
    of its data, and the pages.

    Raises ResourceError if the model cannot be saved.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=atomic.FOLDER, dir=directory) as folder:
            task.save(model, Path(folder))
            lora.complete(model, Path(folder))
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            document = dataclasses.replace(
                document, files={path.relative_to(folder).as_posix(): sha256(path) for path in files}
            )
            for path, name in zip(files, document.files or (), strict=True):
                make_way(directory, name)
                atomic.move(path, directory / name)
        write_run(directory, document)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"the model could not be saved in {directory}: {why}; the checkpoints stand") from error
    write_profile(directory, document, profile)
    write_pages(directory, task, model, document)


def write_profile(directory: Path, document: RunDocument, profile: Profile | None) -> None:
    """What the data of the run, and its answers, were like. A run stands without it, too."""
    if profile is None:
        return
    try:
        data_profile.write(directory, dataclasses.replace(profile, weights=data_profile.weights_of(document.files)))
    except (OSError, ValueError) as error:
        note(f"warning: {directory / data_profile.NAME} could not be written ({getattr(error, 'strerror', None) or error})")


def make_way(directory: Path, name: str) -> None:
    """Set aside what has come to stand where a file of this name goes: a folder or a link there, or no folder above it."""
    target = directory / name
    for path in [path for path in (*reversed(target.parents), target) if directory in path.parents]:
        if path.is_symlink() or (path.exists() and path.is_dir() == (path == target)):
            aside = path.with_name(f"{path.name}.moved-{secrets.token_hex(4)}")
            os.rename(path, aside)
            note(f"warning: {path} was in the way of the model and is now called {aside.name}")
    target.parent.mkdir(parents=True, exist_ok=True)


def write_pages(directory: Path, task: Task[Any], model: nn.Module, document: RunDocument) -> None:
    """README.md and report.html. Whatever goes wrong with them is said, and is not worth a finished run."""
    name = directory.resolve().name

    def readme() -> str:
        return card.make(task, model, name, document, read_log(directory / "metrics.jsonl").lines)

    def report() -> str:
        return render([record_in(directory, document, name)])

    for page, make in (("README.md", readme), ("report.html", report)):
        try:
            atomic.write(directory / page, make())
        except Exception as error:  # of any kind: what it is drawn from may have been changed by anybody
            why = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
            note(f"warning: the model is saved, but {directory / page} could not be written ({why})")
