"""What tags mean: names of things in several words (B-PER I-PER, and their kin), or a tag by itself (NOUN).

Which words make up a thing is seqeval's rule, which is that of the CoNLL shared tasks' own script (conlleval): a thing may
begin with I-, too. Figures are counts of things, which add up over batches and devices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.distributed.world import World
from engine.errors import DataError
from tasks.classification.metrics import ClassificationMetrics

PARTS = re.compile(r"([BIESLU])-(.+)")
AS_IOBES = {"L": "E", "U": "S"}  # BILOU's letters for what IOBES calls an end and a single word


def kinds_of(names: Sequence[str]) -> list[str] | None:
    """The kinds of things that the tags speak of, sorted; None if no tag is a part of one. Raises DataError for a mixture."""
    found = {name: PARTS.fullmatch(name) for name in names if name != "O"}
    parts = {name: match[2] for name, match in found.items() if match}
    if parts and (others := sorted(found.keys() - parts.keys())):
        raise DataError(
            f"the tag {others[0]!r} is no part of a name, as {min(parts)!r} is: all tags are O, B-..., I-..., or none is"
        )
    return sorted(set(parts.values())) if parts else None


def things(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """What the tags of a sentence mark: kind, first word, last word."""
    from seqeval.metrics.sequence_labeling import get_entities

    parts = [(match[1], match[2]) if (match := PARTS.fullmatch(tag)) else ("O", "") for tag in tags]
    read = [f"{AS_IOBES.get(letter, letter)}-{kind}" if kind else letter for letter, kind in parts]
    return [(kind, int(first), int(last)) for kind, first, last in get_entities(read)]


def of_rows(values: Tensor, batch: Batch) -> list[Tensor]:
    """What belongs to the words of each row: of ``values`` [N], in the order of the batch's targets, [W] each, on the host."""
    real = batch.targets["labels"] != -100
    return list(values[real].cpu().split(batch.targets["num_words"].tolist()))


def tags_of_rows(outputs: Any, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """For each row the tags of its words and those predicted: two of [W], on the host. ``outputs.logits``: [1, N, L]."""
    predicted = outputs.logits.squeeze(0).argmax(-1)
    return list(zip(of_rows(batch.targets["labels"], batch), of_rows(predicted, batch), strict=True))


class ThingMetrics:
    """precision, recall, f1: of things, right only as a whole and with their kind; accuracy: of words."""

    names = ("f1", "precision", "recall", "accuracy")
    lower_is_better = ()

    def __init__(self, names: Sequence[str], kinds: Sequence[str]):
        self.tags, self.kinds = names, kinds
        self.right: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.real: Counter[str] = Counter()
        self.words, self.right_words = 0, 0

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [1, N, L] of the N words."""
        for labels, predicted in tags_of_rows(outputs, batch):
            self.count(labels, predicted)

    def count(self, labels: Tensor, predicted: Tensor) -> None:
        """Of one row: two of [W]."""
        real, found = (set(things([self.tags[i] for i in tags.tolist()])) for tags in (labels, predicted))
        for counter, some in ((self.real, real), (self.found, found), (self.right, real & found)):
            counter.update(kind for kind, *_ in some)
        self.words += len(labels)
        self.right_words += int((labels == predicted).sum())

    def sync(self, world: World) -> None:
        """Counts of all ranks."""
        counters = (self.right, self.found, self.real)
        own = torch.tensor([[counter[kind] for kind in self.kinds] for counter in counters], device=world.device)
        words = torch.tensor([self.words, self.right_words], device=world.device)
        for counter, counts in zip(counters, world.all_reduce(own).tolist(), strict=True):
            counter.update(
                dict(zip(self.kinds, (n - counter[k] for n, k in zip(counts, self.kinds, strict=True)), strict=True))
            )
        self.words, self.right_words = world.all_reduce(words).tolist()

    def compute(self) -> dict[str, float]:
        """nan where nothing is to be found and nothing was."""
        figures = ratios(self.right.total(), self.found.total(), self.real.total())
        return figures | {"accuracy": self.right_words / self.words if self.words else float("nan")}

    def classes(self) -> dict[str, dict[str, float]]:
        """The figures of each kind, and how many names of it there are."""
        each = {kind: ratios(self.right[kind], self.found[kind], self.real[kind]) for kind in self.kinds}
        return {
            kind: {name: figures[name] for name in ("precision", "recall", "f1")} | {"names": self.real[kind]}
            for kind, figures in each.items()
        }


def ratios(right: int, found: int, real: int) -> dict[str, float]:
    """As seqeval and scikit-learn have them, 0 where nothing was found; nan where nothing is there either."""
    if not found and not real:
        return dict.fromkeys(("f1", "precision", "recall"), float("nan"))
    return {
        "f1": 2 * right / (found + real),
        "precision": right / found if found else 0.0,
        "recall": right / real if real else 0.0,
    }


class WordMetrics(ClassificationMetrics):
    """accuracy, f1 (macro), mcc over words, whose tags are no parts of things."""

    def __init__(self, names: Sequence[str]):
        super().__init__("single_label", names)

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        super().update(model, SimpleNamespace(logits=outputs.logits.squeeze(0)), batch)  # [N, L] of the N words
