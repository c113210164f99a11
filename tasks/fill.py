"""``python run.py fill``: what a masked language model puts in place of ``[MASK]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import require, setting
from engine.errors import UsageError, shown
from engine.inference import Find, open_model


@dataclass(frozen=True)
class FillConfig:
    """Settings of ``fill``."""

    model: str = setting("", "directory of a finished run, or any masked language model's directory or Hub name")
    top_k: int = setting(5, "tokens shown for each mask")
    task: str = setting("mlm", "mlm, or a task of your own that is made from it: FILE.py:CLASS")
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        require(self, "model", bool(self.model), "must name a model directory")
        require(self, "top_k", self.top_k >= 1, "must be at least 1")


def fill(config: FillConfig, texts: Sequence[str], find: Find) -> None:
    """Prints token and probability, best first; with several texts or masks, a line before each that says which."""
    if not texts:
        raise UsageError('give a text: python run.py fill --model runs/mlm "This is a [MASK] movie!"')
    task: Any
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, base="mlm")
    filled = list(task.fill(model, texts, layout, config.top_k))
    is_one = len(filled) == len(filled[0]["masks"]) == 1
    for text, found in zip(texts, filled, strict=True):
        for number, mask in enumerate(found["masks"], start=1):
            if not is_one:
                print(f"{shown(text)} (mask {number} of {len(found['masks'])})")
            for token, probability in mask:
                print(f"{shown(token.strip())}\t{probability:.4f}")
