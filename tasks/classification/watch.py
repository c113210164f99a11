"""What a profile of a run of texts with labels is made of: see engine/findings/profile.py, which makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.data.batch import Batch
from engine.data.tokens import TokenDataset
from engine.task import Answers, Observed, Texts
from tasks.classification.windows import Documents

if TYPE_CHECKING:
    from datasets import Dataset

NO_LABEL = "(no label)"


class Watched:
    """The rows of a set, and what was answered to them: by the model's logits alone, before temperature and thresholds.

    ``texts``: the columns of texts; ``unknown``: the id of an unknown token; ``has_labels``: are those of ``rows`` any?
    """

    def __init__(
        self, problem: str, names: Sequence[str], texts: Dataset, rows: TokenDataset | Documents, unknown: int | None,
        *, has_labels: bool,
    ):  # fmt: skip
        self.problem, self.names, self.table, self.data, self.unknown = problem, names, texts, rows, unknown
        self.has_labels = has_labels
        self.rows: list[int] = []
        self.found: list[tuple[Tensor, Tensor]] = []  # of each batch, on its device: which labels, and a number

    def __len__(self) -> int:
        return len(self.data)

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]. Nothing waits for the device."""
        logits = outputs.logits.detach().float()
        self.rows += [row for _, row in batch.keys]
        if self.problem == "regression":
            self.found.append((logits[:, 0], logits[:, 0]))
        elif self.problem == "multi_label":
            p = logits.sigmoid()
            self.found.append((p > 0.5, p.amax(-1)))
        else:
            highest, best = logits.softmax(-1).max(-1)
            self.found.append((best, highest))

    def answers(self) -> Answers:
        chosen, numbers = (torch.cat(parts).cpu().numpy() for parts in zip(*self.found, strict=True))
        shares = {} if self.problem == "regression" else self.counted(chosen)
        number = "predicted value" if self.problem == "regression" else "confidence"
        return Answers(np.asarray(self.rows, dtype=np.int64), shares, number, numbers.astype(np.float64))

    def labels(self) -> Mapping[str, int] | np.ndarray | None:
        found = np.asarray(self.data.columns["labels"])
        if not self.has_labels:
            return None
        return (
            found.astype(np.float64) if self.problem == "regression" else self.counted(found > 0 if found.ndim == 2 else found)
        )

    def counted(self, found: np.ndarray) -> dict[str, int]:
        """How often each label: of ids [N]; or of [N, L] bool each set of labels, which has a name of its own."""
        if found.ndim == 1:
            return {
                name: int(count) for name, count in zip(self.names, np.bincount(found, minlength=len(self.names)), strict=True)
            }
        kinds, counts = np.unique(found, axis=0, return_counts=True)
        sets: Counter[str] = Counter()
        for kind, count in zip(kinds, counts.tolist(), strict=True):  # names that hold a | may make the same word
            sets["|".join(np.asarray(self.names)[kind]) or NO_LABEL] += count
        return dict(sets)

    def texts(self, rows: np.ndarray) -> Texts:
        ids = [self.ids_of(int(row)) for row in rows]
        chosen = self.table.select(rows)
        cells = [chosen[name][:] for name in chosen.column_names]
        characters = np.array([sum(map(len, row)) for row in zip(*cells, strict=True)], dtype=np.int64)
        return Texts(ids, characters, self.unknown)

    def ids_of(self, row: int) -> np.ndarray:
        """Of all windows, where a row has several."""
        found = self.data[row]
        windows = found["windows"] if isinstance(self.data, Documents) else [found]
        return np.concatenate([np.asarray(window["input_ids"]) for window in windows])


def observed(
    problem: str, names: Sequence[str], temperature: float, inputs: Sequence[Any], predictions: Sequence[Mapping[str, Any]],
    unknown: int | None,
) -> Observed:  # fmt: skip
    """What was asked, and what the logits alone answered to it, from what ``predict`` says: its temperature is taken back."""
    characters = [len(item) if isinstance(item, str) else sum(map(len, item)) for item in inputs]
    if problem == "regression":
        return Observed(characters, (), "predicted value", [float(each["value"]) for each in predictions], unknown)
    p = np.array([[each["probabilities"][name] for name in names] for each in predictions], dtype=np.float64)  # [n, C]
    if problem == "multi_label":
        yes, no = p**temperature, (1 - p) ** temperature
        p = yes / (yes + no)
        labels = ["|".join(np.asarray(names)[row > 0.5]) or NO_LABEL for row in p]
    else:
        p = p**temperature / (p**temperature).sum(1, keepdims=True)
        labels = [names[int(best)] for best in p.argmax(1)]
    return Observed(characters, labels, "confidence", p.max(1).tolist(), unknown)
