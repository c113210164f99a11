"""What a classifier gets wrong: which rows, how sure it was of them, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.console import shown
from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, place_of, row_name, row_number
from tasks.classification.calibration import NUM_BINS, Calibration, binned, confidences
from tasks.classification.suspects import Said

if TYPE_CHECKING:
    from datasets import Dataset

MAX_CLASSES, MAX_PAIRS, MAX_LABELS = 10, 10, 20


class Wrong:
    """Rows that are wrong, gathered batch by batch. ``texts``: the evaluated rows, of which these are shown."""

    order = "the surest first"

    def __init__(self, texts: Dataset):
        self.texts = texts

    def columns(self) -> Columns:
        return {name: self.texts[name][:] for name in self.texts.column_names}

    def cells(self, row: int) -> list[Any]:
        """``row`` of the file, from 1, of several with its name; and the texts."""
        where = row_name if len(origin_of(self.texts).files) > 1 else row_number
        return [where(self.texts, row), *self.texts[row].values()]

    def header(self, *more: str) -> list[str]:
        return ["row", *self.texts.column_names, *more]


class Judged(Wrong):
    """Of labels: each row is right or wrong. ``data``: the evaluated rows with all columns that were read."""

    def __init__(
        self, names: Sequence[str], texts: Dataset, calibration: Calibration | None = None, data: Dataset | None = None
    ):
        super().__init__(texts)
        self.names, self.calibration, self.data = names, calibration or Calibration(), texts if data is None else data
        self.wrong: list[Any] = []  # (confidence, row, label, prediction)
        self.said = Said()
        self.bins = torch.zeros(NUM_BINS, 3, dtype=torch.float64)

    def believe(self, logits: Tensor, batch: Batch, problem: str) -> None:
        """Add to the curve of reliability; ``logits``: [B, C], scaled."""
        self.bins = self.bins + binned(*confidences(logits, batch.targets["labels"], problem))

    @cached_property
    def suspected(self) -> dict[int, int] | None:
        """The place of each row among those whose label may be wrong, the likeliest 1; None: they were not looked for."""
        return self.said.suspected()

    def marked(self, row: int) -> list[Any]:
        """The cell of ``suspected``, where there is that column."""
        return [] if self.suspected is None else [self.suspected.get(row, "")]

    def marks(self) -> list[str]:
        return [] if self.suspected is None else ["suspected"]

    def suspicion(self) -> list[str]:
        """A line for the terminal."""
        if self.suspected is None:
            return []
        wrong = {row for _, row, *_ in self.wrong}
        where = f", {sum(row in wrong for row in self.suspected):,} of them among the wrong rows: column suspected"
        share = f"{100 * len(self.suspected) / max(1, len(self.texts)):.1f}%"
        return [f"{len(self.suspected):,} rows ({share}) may have a wrong label (cleanlab){where if self.suspected else ''}"]

    def curve(self) -> list[list[float]]:
        """Of reliability: [15, 3]."""
        return self.bins.tolist()

    def right(self) -> np.ndarray:
        """[N] bool: of the evaluated rows."""
        found = np.ones(len(self.texts), dtype=bool)
        found[[row for _, row, *_ in self.wrong]] = False
        return found

    def column(self, name: str) -> list[Any]:
        """Its cells."""
        return list(self.data[name][:])

    def files(self) -> list[str]:
        """The name of the file of each row; "": of none."""
        return [place_of(self.texts, row)[0] for row in range(len(self.texts))]

    def words(self) -> list[str]:
        """The text of each row."""
        cells = [self.texts[name][:] for name in self.texts.column_names]
        return [" ".join(cell for cell in row if isinstance(cell, str)) for row in zip(*cells, strict=True)]


class Mistakes(Judged):
    """Of one class for each text."""

    def __init__(
        self, names: Sequence[str], texts: Dataset, calibration: Calibration | None = None, data: Dataset | None = None
    ):
        super().__init__(names, texts, calibration, data)
        self.counts = np.zeros((len(names), len(names)), dtype=np.int64)  # [label, prediction]

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        logits = outputs.logits.float()
        self.believe(self.calibration.scaled(logits), batch, "single_label")
        best, p = self.calibration.best(logits), self.calibration.scaled(logits).softmax(-1)
        scores = p.gather(-1, best[:, None])[:, 0].cpu().numpy()
        predictions = best.cpu().numpy()
        labels = batch.targets["labels"].cpu().numpy()
        self.said.add(batch, p, labels)
        np.add.at(self.counts, (labels, predictions), 1)
        for i in np.flatnonzero(labels != predictions):
            self.wrong.append((float(scores[i]), batch.keys[i][1], int(labels[i]), int(predictions[i])))

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows, the most confident mistake first."""
        found: list[list[Any]] = []
        for score, row, label, prediction in sorted(self.wrong, key=lambda wrong: (-wrong[0], wrong[1])):
            found.append([*self.cells(row), self.names[label], self.names[prediction], round(score, 4), *self.marked(row)])
        return self.header("label", "prediction", "confidence", *self.marks()), found

    def table(self) -> str:
        """All classes against all, or with many of them the pairs that are confused most."""
        names = [shown(name, 18) for name in self.names]
        if len(names) <= MAX_CLASSES:
            rows = [["label / prediction", *names], *([name, *row] for name, row in zip(names, self.counts, strict=True))]
            width = max(map(len, names)) + 2
            lines = [f"{row[0]:<20}" + "".join(f"{cell:>{max(width, 8)}}" for cell in row[1:]) for row in rows]
            return "\n".join([*lines, *self.suspicion()])
        off = self.counts * ~np.eye(len(names), dtype=bool)
        pairs = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None, kind="stable")[:MAX_PAIRS]]
        lines = [f"{off[i, j]:>6}  {names[i]} taken for {names[j]}" for i, j in pairs if off[i, j]]
        return "\n".join([f"most often confused, of {len(names)} classes:", *lines, *self.suspicion()])


class WrongLabels(Judged):
    """Of several labels at once: rows in which one is missing, or too many. ``confidence``: in the label that is most wrong."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        logits = outputs.logits.float()
        p, predictions = (t.cpu().numpy() for t in (self.calibration.scaled(logits).sigmoid(), self.calibration.chosen(logits)))
        self.believe(self.calibration.scaled(logits), batch, "multi_label")
        labels = batch.targets["labels"].cpu().numpy() > 0
        self.said.add(batch, self.calibration.scaled(logits).sigmoid(), labels)
        for i in np.flatnonzero((labels != predictions).any(1)):
            off = labels[i] != predictions[i]
            sure = float(np.where(predictions[i], p[i], 1 - p[i])[off].max())
            self.wrong.append((sure, batch.keys[i][1], labels[i], predictions[i]))

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        found: list[list[Any]] = []
        for score, row, *both in sorted(self.wrong, key=lambda wrong: (-wrong[0], wrong[1])):
            names = ["|".join(np.asarray(self.names)[which]) for which in both]
            found.append([*self.cells(row), *names, round(score, 4), *self.marked(row)])
        return self.header("label", "prediction", "confidence", *self.marks()), found

    def table(self) -> str:
        """How often each label is missing, and how often it is given where it is none."""
        labels, predictions = (np.array([row[k] for row in self.wrong]).reshape(-1, len(self.names)) for k in (2, 3))
        counts = zip(self.names, (labels & ~predictions).sum(0), (predictions & ~labels).sum(0), strict=True)
        worst = sorted(counts, key=lambda row: -(row[1] + row[2]))[:MAX_LABELS]
        more = [f"... and {len(self.names) - len(worst)} more labels"] if len(worst) < len(self.names) else []
        lines = [f"{shown(name, 20):<20}{missing:>10}{many:>10}" for name, missing, many in worst]
        return "\n".join([f"{'label':<20}{'missing':>10}{'too many':>10}", *lines, *more, *self.suspicion()])


class WrongValues(Wrong):
    """Of numbers: every row that is off, the furthest first."""

    order = "the largest error first"

    def __init__(self, texts: Dataset):
        super().__init__(texts)
        self.found: list[tuple[int, float, float]] = []  # (row, value, prediction)

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, 1]."""
        values = zip(batch.keys, batch.targets["labels"].tolist(), outputs.logits.float().squeeze(-1).tolist(), strict=True)
        self.found += [(row, value, prediction) for (_, row), value, prediction in values]

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        wrong = sorted((each for each in self.found if each[1] != each[2]), key=lambda each: (-abs(each[2] - each[1]), each[0]))
        return self.header("value", "prediction", "error"), [
            [*self.cells(row), value, round(prediction, 4), round(prediction - value, 4)] for row, value, prediction in wrong
        ]

    def table(self) -> str:
        off = np.abs([prediction - value for _, value, prediction in self.found])
        half, most, largest = np.quantile(off, [0.5, 0.9, 1.0])
        return f"half of the rows are off by at most {half:.4g}, nine of ten by at most {most:.4g}, the worst by {largest:.4g}"
