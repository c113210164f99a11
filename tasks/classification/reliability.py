"""How far probabilities can be believed, as states that add up over batches: no logits are kept. Imported late, as
torchmetrics is.

torchmetrics' CalibrationError keeps a number for each example, and puts confidences of exactly 1, which a sure model gives,
into a bin of their own; else it is the same (tests/tasks/classification/test_calibration.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.classification.calibration import NUM_BINS, binned, confidences, expected_error, squares


class Reliability(Metric):  # type: ignore[misc,no-any-unimported]
    """``{"ece", "brier"}`` of logits [B, C] and labels, [B] or [B, C] of several."""

    full_state_update = False
    bins: Tensor
    brier: Tensor

    def __init__(self, problem: str, **options: Any):
        super().__init__(**options)
        self.problem = problem
        self.add_state("bins", default=torch.zeros(NUM_BINS, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("brier", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.bins += binned(*confidences(logits, labels, self.problem))
        off = squares(logits, labels, self.problem).double()
        self.brier += torch.tensor([float(off.sum()), off.numel()], dtype=torch.float64)

    def compute(self) -> dict[str, Tensor]:
        return {"ece": torch.tensor(expected_error(self.bins)), "brier": self.brier[0] / self.brier[1]}
