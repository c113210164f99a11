"""The command ``caption``: describe pictures with a finished model, or with one of the Hub as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.commands.output import TABLES, check_output, is_flat, write_predictions
from engine.console import say, shown
from engine.errors import UsageError
from engine.finished import Find, open_model
from tasks.flags import CaptionConfig


def caption(config: CaptionConfig, pictures: Sequence[str], find: Find) -> None:
    """The command: a caption for each picture, a file or an http address. Prints, or writes ``--output``."""
    if not pictures:
        raise UsageError("give one or more pictures: files or http addresses")
    check_output("--output", config.output, TABLES, inputs=pictures, model=config.model)
    changes = {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens, "allow_urls": True}  # those typed here
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, base="captioning", changes=changes
    )
    captions = task.predict(model, pictures, layout)
    if config.output:
        path = Path(config.output)
        cells = [task.columns_of(found, is_flat(path)) for found in captions]
        write_predictions(path, {"file_name": list(pictures)}, cells, config.excel_safe)
        say(f"{len(pictures)} captions written to {config.output}")
        return
    for picture, found in zip(pictures, captions, strict=True):
        say(f"{task.describe(found)}\t{shown(picture)}")
