"""The command ``caption``: describe pictures with a finished model, or with one of the Hub as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import require, setting
from engine.errors import UsageError, shown
from engine.inference import Find, open_model, write_predictions


@dataclass(frozen=True)
class CaptionConfig:
    """Settings of ``caption``."""

    model: str = setting("microsoft/git-base-coco", "directory of a finished run, any model directory or Hub name")
    num_beams: int | None = setting(None, "captions that are followed at once; 1: greedy (default: as in training)")
    max_new_tokens: int | None = setting(None, "tokens that are written at most (default: as in training)")
    output: str | None = setting(None, "CSV or JSONL file for the captions (default: print them)")
    task: str = setting("captioning", "captioning, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")


def caption(config: CaptionConfig, pictures: Sequence[str], find: Find) -> None:
    """The command: a caption for each picture, a file or an http address. Prints, or writes ``--output``."""
    if not pictures:
        raise UsageError("give one or more pictures: files or http addresses")
    if config.output and Path(config.output).suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"--output must end in .csv or .jsonl, found {config.output!r}")
    changes = {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens}
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, base="captioning", changes=changes
    )
    captions = task.predict(model, pictures, layout)
    if config.output:
        write_predictions(Path(config.output), {"file_name": list(pictures)}, list(captions))
        print(f"{len(pictures)} captions written to {config.output}")
        return
    for picture, found in zip(pictures, captions, strict=True):
        print(f"{task.describe(found)}\t{shown(picture)}")
