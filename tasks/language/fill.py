"""``python run.py fill``: what a masked language model puts in place of ``[MASK]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.commands.flags import with_model
from engine.console import say, shown
from engine.errors import UsageError
from engine.finished import Find, open_model
from tasks.flags import FillConfig


def fill(config: FillConfig, texts: Sequence[str], find: Find) -> None:
    """Prints token and probability, best first; with several texts or masks, a line before each that says which."""
    config, texts = with_model(config, texts, 'fill runs/mlm "This is a [MASK] movie!"')
    if not texts:
        raise UsageError('give a text: python run.py fill --model runs/mlm "This is a [MASK] movie!"')
    task: Any
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, base="mlm")
    filled = list(task.fill(model, texts, layout, config.top_k))
    is_one = len(filled) == len(filled[0]["masks"]) == 1
    for text, found in zip(texts, filled, strict=True):
        for number, mask in enumerate(found["masks"], start=1):
            if not is_one:
                say(f"{shown(text)} (mask {number} of {len(found['masks'])})")
            for token, probability in mask:
                say(f"{shown(token.strip())}\t{probability:.4f}")
