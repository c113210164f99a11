"""The finished model and its pages, written so that run.json, which comes last, says that all is there.

Next: card.py and report.py, the pages; directory.py, who may write where.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from engine.artifacts import card
from engine.artifacts.directory import TEMPORARY, write_run
from engine.artifacts.document import RunDocument
from engine.artifacts.report import record_in, render
from engine.checkpoint.store import sync_directory
from engine.errors import ResourceError
from engine.model import lora
from engine.record.log import read_log
from engine.task import Task


def files_in(folder: Path) -> list[str]:
    """The files below it, by name, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write_model(directory: Path, task: Task[Any], model: nn.Module, document: RunDocument) -> None:
    """Model, processor, pages file by file, each complete when it gets its name; run.json last: it says that all is there."""
    log = read_log(directory / "metrics.jsonl").lines
    name = directory.resolve().name
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=directory) as folder:
            task.save(model, Path(folder))
            lora.complete(model, Path(folder))
            document = dataclasses.replace(document, files=files_in(Path(folder)))
            (Path(folder) / "README.md").write_text(card.make(task, model, name, document, log), encoding="utf-8")
            (Path(folder) / "report.html").write_text(render([record_in(directory, document, name)]), encoding="utf-8")
            for file in files_in(Path(folder)):
                with open(Path(folder) / file, "rb") as stream:
                    os.fsync(stream.fileno())
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(folder) / file, target)
                sync_directory(target.parent)
        write_run(directory, document)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"the model could not be saved in {directory}: {why}; the checkpoints stand") from error
