"""What ``evaluate --calibrate`` and ``--threshold auto`` learn: on one half of the held-out rows, and reported on the other.

The halves are drawn by the data's seed, with the same share of each label where there is one for each row. The rows that are
reported on have chosen neither temperature nor threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.data.batch import Batch
from engine.errors import DataError, UsageError
from engine.task import Learned
from tasks.classification.calibration import (
    FIELD,
    Calibration,
    binned,
    confidences,
    expected_error,
    losses,
    most_likely_temperature,
)

LEAST = 20  # rows; half of them choose


class Outcomes:
    """Logits and labels of the evaluated rows, gathered batch by batch; in the order of the rows: [N, C], and [N] or [N, L]."""

    def __init__(self, problem: str):
        self.problem = problem
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        rows = np.array([row for _, row in batch.keys], dtype=np.int64)
        self.parts.append((rows, outputs.logits.float().cpu().numpy(), batch.targets["labels"].cpu().numpy()))

    def gathered(self) -> tuple[np.ndarray, np.ndarray]:
        rows, logits, labels = (np.concatenate(each) for each in zip(*self.parts, strict=True))
        order = np.argsort(rows, kind="stable")
        return logits[order], labels[order]

    def bins(self, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> torch.Tensor:
        """Of the reliability curve: [15, 3]."""
        return binned(*confidences(torch.as_tensor(logits) / temperature, torch.as_tensor(labels), self.problem))


class Adjustment(Outcomes):
    """Learns a temperature, or not. ``before``: what the model has."""

    def __init__(self, problem: str, names: Sequence[str], before: Calibration, *, calibrate: bool):
        if problem == "regression":
            raise UsageError("--calibrate is for classes: a regression gives numbers, not probabilities")
        super().__init__(problem)
        self.names, self.before, self.calibrate = names, before, calibrate

    def learned(self, seed: int) -> Learned:
        logits, labels = self.gathered()
        if len(logits) < LEAST:
            raise DataError(f"--calibrate needs at least {LEAST} held-out rows, found {len(logits)}: name more with --file")
        chooses, reported = halves(labels, seed)
        after = self.before
        lines: list[str] = []
        curves: dict[str, list[list[float]]] = {}
        if self.calibrate:
            temperature = most_likely_temperature(logits[chooses], labels[chooses], self.problem)
            if temperature is None:
                raise DataError(
                    f"--calibrate: of the {len(chooses)} rows that it learns from all are answered right, or the answers say "
                    "nothing: no temperature makes them most likely. Name other rows, or more, with --file"
                )
            after = Calibration(temperature, after.thresholds)
            lines, curves = self.of_temperature(logits[reported], labels[reported], temperature, len(chooses))
        return Learned({FIELD: after.stored()}, lines, curves, in_card(after))

    def of_temperature(
        self, logits: np.ndarray, labels: np.ndarray, temperature: float, num_learned: int
    ) -> tuple[list[str], dict[str, list[list[float]]]]:
        """Lines, and the curves before and after, of rows that did not choose it."""
        bins = [self.bins(logits, labels, t) for t in (1.0, temperature)]
        loss = [losses(logits, labels, self.problem, t) for t in (1.0, temperature)]
        gain = loss[1] - loss[0]
        error = gain.std(ddof=1) / len(gain) ** 0.5
        lines = [
            f"temperature {temperature:.4f}, fitted on {num_learned} rows; on {len(labels)} others:",
            f"  {'':<28}{'before':>10}{'after':>10}",
            f"  {'ece':<28}" + "".join(f"{expected_error(each):>10.4f}" for each in bins),
            f"  {'loss':<28}" + "".join(f"{each.mean():>10.4f}" for each in loss) + f"  ({gain.mean():+.4f} +- {error:.4f})",
        ]
        return lines, {"before": bins[0].tolist(), "after": bins[1].tolist()}


def halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the rows, each in order: the one that chooses, and the one that is reported on.

    Rows are shuffled and, where each has one label, sorted by it: every other one is of the first half.
    """
    order = np.random.default_rng((seed, 3)).permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[::2]), np.sort(order[1::2])


def in_card(after: Calibration) -> str:
    """What the model card says of it."""
    return (
        f"The probabilities that Plainloop's `predict` gives are those of the logits divided by {after.temperature:.4g}, a "
        f"temperature that config.json holds (`{FIELD}`), fitted on held-out rows. transformers does not read it: its "
        "pipeline's probabilities are those at temperature 1. The answers are the same."
    )
