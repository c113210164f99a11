"""``python run.py fill``: what a masked language model puts in place of ``[MASK]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.commands.flags import with_model
from engine.console import say, shown
from engine.finished import Find, open_model
from tasks.flags import FillConfig
from tasks.inputs import texts_given, write_found

EXAMPLE = 'fill runs/mlm "This is a [MASK] movie!"'


def fill(config: FillConfig, texts: Sequence[str], find: Find) -> None:
    """Prints token and probability, best first; with several texts or masks, a line before each that says which. Or writes
    ``--output``: beside the columns of ``--input`` the ``filled`` text, and of each mask the tokens and their probabilities."""
    config, texts = with_model(config, texts, EXAMPLE)
    texts, rows = texts_given(config, texts, model=config.model, what="a text", example=EXAMPLE)
    task: Any
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, base="mlm")
    filled = list(task.fill(model, texts, layout, config.top_k))
    if config.output:
        cells = [{"filled": filled_in(text, found["masks"], task.tokenizer.mask_token)} | found
                 for text, found in zip(texts, filled, strict=True)]  # fmt: skip
        return write_found(config, rows, cells, "texts")
    is_one = len(filled) == len(filled[0]["masks"]) == 1
    for text, found in zip(texts, filled, strict=True):
        for number, mask in enumerate(found["masks"], start=1):
            if not is_one:
                say(f"{shown(text)} (mask {number} of {len(found['masks'])})")
            for token, probability in mask:
                say(f"{shown(token.strip())}\t{probability:.4f}")


def filled_in(text: str, masks: Sequence[Sequence[tuple[str, float]]], mask: str) -> str:
    """The text with the most probable token in place of each mask."""
    text = text.replace("[MASK]", mask)
    for (token, _), *_ in masks:
        text = text.replace(mask, token.strip(), 1)
    return text
