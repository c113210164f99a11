"""What ``evaluate --calibrate`` and ``--threshold auto`` learn: on one half of the held-out rows, and reported on the other.

The halves are drawn by the data's seed, with the same share of each label where there is one for each row. The rows that are
reported on have chosen neither temperature nor threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from engine.console import shown
from engine.data.batch import Batch
from engine.errors import DataError, UsageError
from engine.task import Learned
from tasks.classification.calibration import (
    FIELD,
    HALF,
    Calibration,
    binned,
    confidences,
    expected_error,
    losses,
    most_likely_temperature,
)

LEAST = 20  # rows; half of them choose
MOST = 50  # labels in a table
DRAWS = 1000  # of the bootstrap


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
    """Learns a temperature, or thresholds, or both. ``before``: what the model has."""

    def __init__(
        self,
        problem: str,
        names: Sequence[str],
        before: Calibration,
        *,
        calibrate: bool,
        threshold: Literal["auto", "none"] | None = None,
    ):
        if problem == "regression":
            raise UsageError("--calibrate and --threshold are for classes: a regression gives numbers, not probabilities")
        if threshold == "auto" and problem == "single_label" and len(names) != 2:
            raise UsageError(
                f"--threshold auto is for several labels at once, or for two classes; this model tells {len(names)} classes "
                "apart, and answers with the most probable one"
            )
        super().__init__(problem)
        self.names, self.before, self.calibrate, self.threshold = names, before, calibrate, threshold

    def learned(self, seed: int) -> Learned:
        logits, labels = self.gathered()
        if len(logits) < LEAST:
            raise DataError(
                f"at least {LEAST} held-out rows are needed to learn from, found {len(logits)}: name more with --file"
            )
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
        if self.threshold == "none":
            after = Calibration(after.temperature)
            lines.append("thresholds: none; a label counts from a probability of more than 0.5")
        if self.threshold == "auto":
            kept, missing = self.chosen_thresholds(logits[chooses], labels[chooses])
            after = Calibration(after.temperature, kept)
            lines += ["", *self.of_thresholds(logits[reported], labels[reported], after, len(chooses), seed), *missing]
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

    def chosen_thresholds(self, logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[float, ...], list[str]]:
        """Those of the highest F1; 0.5 for a label that no row has, which is said."""
        p = self.probabilities(logits)
        found = [best_threshold(p[:, i], is_so) for i, is_so in enumerate(self.is_so(labels).T)]
        names = [shown(name, 40) for name, each in zip(self.asked, found, strict=True) if each is None]
        lines = [f"no row that chose has {', '.join(names[:MOST])}: 0.5 stays"] if names else []
        return tuple(HALF if each is None else each for each in found), lines

    @property
    def asked(self) -> Sequence[str]:
        """The labels that have a threshold: all, or the second of two classes."""
        return self.names if self.problem == "multi_label" else self.names[1:]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[N, L] of those labels, at temperature 1."""
        z = torch.as_tensor(logits)
        return (z.sigmoid() if self.problem == "multi_label" else z.softmax(-1)[:, 1:]).double().numpy()

    def is_so(self, labels: np.ndarray) -> np.ndarray:
        """[N, L] bool."""
        return labels > 0 if self.problem == "multi_label" else labels[:, None] == 1

    def of_thresholds(
        self, logits: np.ndarray, labels: np.ndarray, after: Calibration, num_learned: int, seed: int
    ) -> list[str]:
        """Lines: the figures with 0.5 and with these thresholds, and the change with its standard error."""
        p, is_so = self.probabilities(logits), self.is_so(labels)
        before, now = p > HALF, p > np.array(after.thresholds)
        kinds = {"f1_micro": micro, "f1_macro": macro} if self.problem == "multi_label" else {f"f1 of {self.names[1]}": micro}
        counts = [np.stack([a & is_so, a & ~is_so, ~a & is_so], -1).astype(np.float64) for a in (before, now)]  # [N, L, 3]
        lines = [
            f"thresholds, chosen on {num_learned} rows; on {len(labels)} others:",
            f"  {'':<28}{'at 0.5':>10}{'chosen':>10}",
        ]
        for name, figure in kinds.items():
            values = [float(figure(each.sum(0))) for each in counts]
            error = bootstrap(counts, figure, seed)
            change = f"({values[1] - values[0]:+.4f} +- {error:.4f})"
            lines.append(f"  {shown(name, 27):<28}{values[0]:>10.4f}{values[1]:>10.4f}  {change}")
        right = [(each == is_so).all(1) for each in (before, now)]
        whole = "rows all right" if self.problem == "multi_label" else "accuracy"
        lines.append(f"  {whole:<28}" + "".join(f"{each.mean():>10.4f}" for each in right))
        lines.append(f"  {'label':<28}{'threshold':>10}{'f1 at 0.5':>10}{'f1':>10}")
        each_f1 = [f1(each.sum(0)) for each in counts]
        rows = zip(self.asked, after.shown(after.thresholds or ()), *each_f1, strict=True)
        lines += [f"  {shown(name, 27):<28}{t:>10.4f}{a:>10.4f}{b:>10.4f}" for name, t, a, b in list(rows)[:MOST]]
        return lines + ([f"  ... and {len(self.asked) - MOST} more labels"] if len(self.asked) > MOST else [])


def f1(counts: np.ndarray) -> np.ndarray:
    """[..., L] of right, too many and missing [..., L, 3]; 0 of nothing."""
    right, extra, missed = np.moveaxis(counts, -1, 0)
    return np.asarray(2 * right / np.maximum(2 * right + extra + missed, 1e-300))


def micro(counts: np.ndarray) -> np.ndarray:
    return f1(counts.sum(-2))


def macro(counts: np.ndarray) -> np.ndarray:
    return np.asarray(f1(counts).mean(-1))


def bootstrap(counts: Sequence[np.ndarray], figure: Callable[[np.ndarray], np.ndarray], seed: int) -> float:
    """The standard error of the change of a figure: its spread over 1,000 draws of as many rows, with replacement.

    ``counts``: before and after, [N, L, 3] of each row.
    """
    generator, found = np.random.default_rng((seed, 4)), []
    n = len(counts[0])
    flat = [each.reshape(n, -1) for each in counts]
    for _ in range(DRAWS // 50):
        weights = generator.multinomial(n, np.full(n, 1 / n), size=50).astype(np.float64)
        before, after = (figure((weights @ each).reshape(50, *counts[0].shape[1:])) for each in flat)
        found.append(after - before)
    return float(np.concatenate(found).std(ddof=1))


def best_threshold(probabilities: np.ndarray, is_so: np.ndarray) -> float | None:
    """Of all thresholds the one of the highest F1, in the middle between two probabilities; of several the nearest to 0.5.

    Both [N]. None where no row has the label.
    """
    if not is_so.any():
        return None
    order = np.argsort(-probabilities, kind="stable")
    p, right = probabilities[order], np.cumsum(is_so[order])
    number = np.arange(1, len(p) + 1)  # of the rows above the threshold
    below = np.append(p[1:], 0.0)
    scores = np.where(p > below, 2 * right / (number + is_so.sum()), -1)
    middles = (p + below) / 2
    highest = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(min(middles[highest], key=lambda t: abs(t - HALF)))


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
    said = []
    if after.temperature != 1:
        said.append(
            f"The probabilities that Plainloop's `predict` gives are those of the logits divided by {after.temperature:.4g}, a "
            "temperature fitted on held-out rows; it changes no answer."
        )
    if after.thresholds is not None:
        what = "each label counts" if len(after.thresholds) > 1 else "the second class, or the label, is answered"
        said.append(f"Above which probability {what} was chosen on held-out rows, where F1 was highest.")
    if not said:
        return ""
    return (
        f"{' '.join(said)} config.json holds this in `{FIELD}`, which transformers does not read: its pipeline gives "
        "probabilities at temperature 1, and knows no thresholds."
    )
