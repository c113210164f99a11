"""How far the probabilities of a classifier can be believed, and how they are mended: a temperature, and thresholds.

The model's logits are divided by a temperature before they become probabilities (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017); from which probability on a label counts is a threshold. Both stand in config.json, in the field
``calibration``, which transformers keeps and does not use. What a model answers follows from its logits and the thresholds
alone, which are probabilities at temperature 1: a temperature changes no answer. Next: adjusted.py, which learns both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.checked import is_a
from engine.errors import ModelError

NUM_BINS = 15  # of equal width, as Guo et al. have them
HALF = 0.5
FIELD = "calibration"  # of config.json


@dataclass(frozen=True)
class Calibration:
    """``thresholds``: above which probability, at temperature 1, each label counts, of several; of two classes that exclude
    each other one number, for the second. None: 0.5 each, or the most probable class."""

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def of(cls, config: Any, problem: str, num_labels: int) -> Calibration:
        """That of a model's config. Raises ModelError for what ``evaluate`` does not write."""
        found = getattr(config, FIELD, None)
        if found is None:
            return cls()
        temperature: Any = found.get("temperature", 1.0) if isinstance(found, dict) else None
        if not is_a(temperature, float) or not 0 < temperature < math.inf or problem == "regression":
            raise ModelError(f"config.json of the model: {FIELD} must have a positive temperature, and no regression has one")
        thresholds, number = found.get("thresholds"), num_labels if problem == "multi_label" else 1
        if thresholds is None:
            return cls(float(temperature))
        is_list = isinstance(thresholds, list) and len(thresholds) == number
        if (
            not is_list
            or not all(is_a(each, float) and 0 <= each <= 1 for each in thresholds)
            or (problem == "single_label" and num_labels != 2)
        ):
            raise ModelError(f"config.json of the model: the thresholds of {FIELD} must be {number} numbers from 0 to 1")
        return cls(float(temperature), tuple(map(float, thresholds)))

    def stored(self) -> dict[str, Any]:
        """The field of config.json."""
        thresholds = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return {"temperature": self.temperature, **thresholds}

    def scaled(self, logits: Tensor) -> Tensor:
        """The logits that probabilities are made of."""
        return logits if self.temperature == 1 else logits / self.temperature

    def best(self, logits: Tensor) -> Tensor:
        """[...] int64: the class that is answered, of logits [..., C]."""
        if self.thresholds is None:
            return logits.argmax(-1)
        return above(logits.softmax(-1)[..., 1], self.thresholds[0]).long()

    def chosen(self, logits: Tensor) -> Tensor:
        """[..., L] bool: the labels that are answered, of logits [..., L]."""
        if self.thresholds is None:
            return logits.sigmoid() > HALF
        return above(logits.sigmoid(), self.thresholds)

    def shown(self, thresholds: Sequence[float]) -> list[float]:
        """Thresholds on the scale of the probabilities that predict gives."""
        odds = [math.log(t) - math.log1p(-t) if 0 < t < 1 else math.inf if t else -math.inf for t in thresholds]
        return [1 / (1 + math.exp(min(-each / self.temperature, 700))) for each in odds]


def above(probabilities: Tensor, thresholds: float | Sequence[float]) -> Tensor:
    """Compared in float64, which the device may not have: in float32 a threshold between two neighbours would be one of
    them."""
    return (probabilities.cpu().double() > torch.tensor(thresholds, dtype=torch.float64)).to(probabilities.device)


def confidences(logits: Tensor, labels: Tensor, problem: str) -> tuple[Tensor, Tensor]:
    """What is claimed, and whether it is so: two [N]. Of classes that exclude each other the probability of the most probable
    one, and whether it is the label; of several labels at once each probability, and whether its label is there: [N * L]."""
    if problem == "multi_label":
        return logits.sigmoid().flatten(), labels.flatten() > 0
    found, best = logits.softmax(-1).max(-1)
    return found, best == labels


def binned(claimed: Tensor, is_so: Tensor) -> Tensor:
    """[NUM_BINS, 3] float64: in each bin how many, the sum of the confidences, and how many are so. A bin has its lower edge,
    and the last one 1, too."""
    claimed = claimed.detach().cpu().double()
    at = (claimed * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    columns = torch.stack([torch.ones_like(claimed), claimed, is_so.detach().cpu().double()], 1)
    return torch.zeros(NUM_BINS, 3, dtype=torch.float64).index_add_(0, at, columns)


def expected_error(bins: Tensor) -> float:
    """The expected calibration error: the distance of mean confidence and share that is so, over the bins, weighted by how many
    each holds (Naeini et al., AAAI 2015). NaN of nothing."""
    total = float(bins[:, 0].sum())
    return float((bins[:, 1] - bins[:, 2]).abs().sum()) / total if total else math.nan


def squares(logits: Tensor, labels: Tensor, problem: str) -> Tensor:
    """[N], or [N, L] of several labels: the squared distance of probabilities and labels (Brier, 1950), of classes that exclude
    each other summed over the classes (0 to 2)."""
    if problem == "multi_label":
        return (logits.sigmoid() - labels.float()) ** 2
    return ((logits.softmax(-1) - torch.nn.functional.one_hot(labels, logits.shape[-1])) ** 2).sum(-1)


def losses(logits: np.ndarray, labels: np.ndarray, problem: str, temperature: float = 1.0) -> np.ndarray:
    """[N] float64: the negative log-likelihood of each row's label; of several labels the mean over them."""
    z = logits.astype(np.float64) / temperature
    if problem == "multi_label":
        return np.asarray((np.logaddexp(0, z) - z * labels).mean(1))
    top = z.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(z - top).sum(1)) + top[:, 0] - z[np.arange(len(z)), labels])


def slope(logits: np.ndarray, labels: np.ndarray, problem: str, inverse: float) -> float:
    """The derivative of the mean loss by the inverse temperature; it never falls, since the loss is convex in it."""
    z = logits.astype(np.float64)
    if problem == "multi_label":
        return float(((1 / (1 + np.exp(-np.clip(z * inverse, -700, 700))) - labels) * z).mean())
    weights = np.exp(z * inverse - (z * inverse).max(1, keepdims=True))
    expected = (weights * z).sum(1) / weights.sum(1)
    return float((expected - z[np.arange(len(z)), labels]).mean())


def most_likely_temperature(logits: np.ndarray, labels: np.ndarray, problem: str) -> float | None:
    """The temperature at which these labels are most likely: where the slope is 0, found by halving. None: there is none
    between 0.01 and 100, because all answers are right, or none says anything."""
    low, high = math.log(0.01), math.log(100.0)  # of the inverse temperature
    if slope(logits, labels, problem, math.exp(low)) >= 0 or slope(logits, labels, problem, math.exp(high)) <= 0:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(logits, labels, problem, math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)
