"""How good texts are that a model writes: each beside its target, by the libraries whose figures others give, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf
from torch import nn

from engine.console import note
from engine.data.batch import Batch
from engine.distributed.world import World
from tasks.language.task import LanguageMetrics

Write = Callable[[nn.Module, Batch], list[str]]


class WritingMetrics:
    """rouge_l (F1, mean over rows, 0 to 1), bleu and chrf (of the whole, 0 to 100), exact_match (share of rows); perplexity and
    accuracy of the target's tokens, each behind the right ones.

    ``targets``: by row. ``written``: what was written for each row, which is filled in here. Texts are kept, not logits.
    """

    lower_is_better = ("perplexity",)

    def __init__(self, write: Write, targets: Sequence[str], written: dict[int, str]):
        self.write, self.targets, self.written = write, targets, written
        self.of_tokens = LanguageMetrics()
        self.names = ("rouge_l", "bleu", "chrf", "exact_match", *self.of_tokens.names)

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        self.of_tokens.update(model, outputs, batch)
        self.written |= zip((row for _, row in batch.keys), self.write(model, batch), strict=True)

    def sync(self, world: World) -> None:
        """Each rank has written those of its own rows."""
        for part in world.gather(self.written):
            self.written |= part
        self.of_tokens.sync(world)

    def compute(self) -> dict[str, float]:
        rows = sorted(self.written)
        texts, targets = [self.written[row] for row in rows], [self.targets[row] for row in rows]
        pairs = list(zip(targets, texts, strict=True))
        scorer = RougeScorer(["rougeL"])
        rouge = [scorer.score(target, text)["rougeL"].fmeasure for target, text in pairs]
        return {
            "rouge_l": sum(rouge) / len(rows),
            "bleu": float(corpus_bleu(texts, [targets]).score),
            "chrf": float(corpus_chrf(texts, [targets]).score),
            "exact_match": sum(is_met(*pair) for pair in pairs) / len(rows),
            **self.of_tokens.compute(),
        }


def say_what_rouge_misses(targets: Sequence[str], where: str) -> None:
    """Targets of which it sees nothing, as they are written in other letters."""
    if unseen := sum(not any(letter.isascii() and letter.isalnum() for letter in target) for target in targets):
        note(f"{where}: rouge_l knows a to z and digits alone, and {unseen} of {len(targets)} targets have none: see chrf")


def is_met(target: str, text: str) -> bool:
    """The same, whatever blanks there are at the ends and between words."""
    return target.split() == text.split()
