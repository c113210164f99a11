"""How good captions are: what is written for each evaluation picture against all captions that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.distributed.world import World

Write = Callable[[nn.Module, Tensor], list[str]]


class CaptionMetrics:
    """bleu (of the whole, 0 to 100), rouge_l (F1, mean of the best per picture), exact_match (share of captions met exactly).

    ``references``: the captions of each row's picture, by row. Texts are kept, not logits.
    """

    names = ("bleu", "rouge_l", "exact_match")
    lower_is_better = ()

    def __init__(self, write: Write, references: Sequence[Sequence[str]]):
        self.write, self.references = write, references
        self.written: dict[int, str] = {}

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        pixel_values = batch.inputs["pixel_values"]
        assert isinstance(pixel_values, Tensor)
        for (_, row), text in zip(batch.keys, self.write(model, pixel_values), strict=True):
            self.written[row] = text

    def compute(self) -> dict[str, float]:
        rows = sorted(self.written)
        texts, references = [self.written[row] for row in rows], [self.references[row] for row in rows]
        scorer = RougeScorer(["rougeL"])
        rouge = [scorer.score_multi(known, text)["rougeL"].fmeasure for known, text in zip(references, texts, strict=True)]
        met = [text in known for known, text in zip(references, texts, strict=True)]
        bleu = corpus_bleu(texts, list(zip_longest(*references))).score  # a picture with fewer captions has None
        return {"bleu": float(bleu), "rouge_l": sum(rouge) / len(rows), "exact_match": sum(met) / len(rows)}

    def sync(self, world: World) -> None:
        """Each rank has written those of its own rows."""
        self.written = {row: text for part in world.gather(self.written) for row, text in part.items()}
