"""How often the better answer has the better score, and by how much; and which pairs are the wrong way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number
from engine.distributed.world import World
from tasks.preferences.rows import Preference, as_text

if TYPE_CHECKING:
    from datasets import Dataset

Margins = Callable[[Any, Batch], Tensor]  # of outputs and their batch: by how much each better answer is ahead, [B]


class PreferenceMetrics:
    """accuracy: share of the pairs whose better answer is ahead, of equal ones a half; margin: by how much, on average.

    ``more``: other figures, by name, as ``margins`` is; a function gives the values of a batch to take the mean of.
    """

    def __init__(self, margins: Margins, **more: Margins):
        from torchmetrics import MeanMetric

        self.margins, self.more = margins, more
        self.names = ("accuracy", "margin", *more)
        self.lower_is_better = tuple(more)
        self.means = {name: MeanMetric() for name in self.names}

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        margins = self.margins(outputs, batch)
        values = {"accuracy": (margins > 0).float() + (margins == 0).float() / 2, "margin": margins}
        for name, value in (values | {name: function(outputs, batch) for name, function in self.more.items()}).items():
            if len(value):
                self.means[name].to(value.device).update(value)

    def compute(self) -> dict[str, float]:
        return {name: float(mean.compute()) for name, mean in self.means.items()}

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running: on the host, as a rank without rows is there."""
        for mean in self.means.values():
            mean.to("cpu")


class PreferenceMistakes:
    """Pairs whose better answer is not ahead. ``rows``: of each example its preference, out of the ``table``."""

    order = "the furthest the wrong way round first"

    def __init__(self, table: Dataset, rows: Sequence[Preference], margins: Margins):
        self.table_, self.preferences, self.margins = table, rows, margins
        self.found: list[tuple[float, int]] = []  # (margin, row)

    def update(self, outputs: Any, batch: Batch) -> None:
        self.found += zip(self.margins(outputs, batch).tolist(), (row for _, row in batch.keys), strict=True)

    def columns(self) -> Columns:
        return {
            name: [as_text(each[i]) for each in self.preferences] for i, name in enumerate(("prompt", "chosen", "rejected"), 1)
        }

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows; ``row``: of the file, from 1."""
        where, found = row_name if len(origin_of(self.table_).files) > 1 else row_number, []
        for margin, number in sorted(each for each in self.found if each[0] <= 0):
            each = self.preferences[number]
            found.append([where(self.table_, each.row), *map(as_text, each[1:]), round(margin, 4)])
        return ["row", "prompt", "chosen", "rejected", "margin"], found

    def table(self) -> str:
        margins = torch.tensor([margin for margin, _ in self.found])
        low, middle, high = torch.quantile(margins, torch.tensor([0.1, 0.5, 0.9])).tolist()
        return f"margins: a tenth below {low:.4g}, half below {middle:.4g}, nine tenths below {high:.4g}"
