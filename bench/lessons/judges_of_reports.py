"""The judges of the exercises about packing, calibration and the best of many; the others, and what a judge is: judges.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.classification.calibration import most_likely_temperature

# ------------------------------------------------------------------------------------------------------------------- packing


def packing(packed: Callable[..., Any]) -> str:
    for lengths in ([3, 2, 4], [1, 5], [2, 0, 2]):
        found = packed(list(lengths))
        if not isinstance(found, tuple) or len(found) != 2:
            return "it should return two things: the positions, and the mask"
        positions, mask = found
        total, rows = sum(lengths), [row for row, length in enumerate(lengths) for _ in range(length)]
        if tuple(mask.shape) != (total, total) or mask.dtype != torch.bool:
            return f"the mask is {mask.dtype} of shape {tuple(mask.shape)}, and bool of shape {(total, total)} is asked for"
        right = torch.tensor([[rows[i] == rows[j] and j <= i for j in range(total)] for i in range(total)])
        if said := wrong_mask(mask, right, rows, lengths):
            return said
        within = [at for length in lengths for at in range(length)]
        if list(map(int, positions)) != within:
            return f"rows of {lengths} tokens: positions are {list(map(int, positions))} and should be {within}"
    return ""


def wrong_mask(mask: Tensor, right: Tensor, rows: list[int], lengths: list[int]) -> str:
    if torch.equal(mask, ~right):
        return "the mask is the other way round: True stands for may look, and not for hidden"
    if not bool(mask.diagonal().all()):
        return "a token does not look at itself, and the first one of a row looks at nothing"
    for i, j in (mask & ~right).nonzero().tolist():
        if rows[i] != rows[j]:
            return f"rows of {lengths} tokens: token {i} looks at token {j}, which is of another row"
        return f"rows of {lengths} tokens: token {i} looks at token {j}, which comes behind it and which it has to predict"
    for i, j in (right & ~mask).nonzero().tolist():
        return f"rows of {lengths} tokens: token {i} does not look at token {j}, which is before it in its row"
    return ""


# --------------------------------------------------------------------------------------------------------------- calibration


def drawn(factor: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, ``factor`` times as large as those that the labels are drawn by."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2000, 3, generator=generator)
    return factor * logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def calibration(temperature: Callable[..., Any]) -> str:
    for factor, what in ((3.0, "too sure"), (0.5, "not sure enough")):
        logits, labels = drawn(factor)
        right = most_likely_temperature(logits.numpy(), labels.numpy(), "single_label")
        assert right is not None
        found = temperature(logits.clone(), labels.clone())
        if isinstance(found, Tensor):
            return "it returns a tensor, and a number is asked for: float()"
        least, own, plain = (float(F.cross_entropy(logits / t, labels)) for t in (right, max(found, 1e-3), 1.0))
        if abs(found - 1 / right) < 0.05 / right:
            return f"of a model that is {what} it gives {found:.2f}: what logits are multiplied by, and not divided by"
        if found == 1 and factor == 3:
            return f"the temperature is 1: nothing is learned from the rows, whose loss is {plain:.3f} and could be {least:.3f}"
        if own > least + 1e-3:
            return f"of a model that is {what} it gives {found:.2f} and a loss of {own:.3f}; {right:.2f} gives {least:.3f}"
    return ""


# ----------------------------------------------------------------------------------------------------------------- best-of-n


def best_of_n(choose: Callable[..., Any]) -> str:
    generator = torch.Generator().manual_seed(0)
    reported, models, rows = [], 20, 100
    for _ in range(100):  # models of which each has every row right by a coin
        right = torch.rand(models, rows, generator=generator) < 0.5
        best, accuracy = choose(right.clone())
        if not 0 <= int(best) < models or not 0 <= float(accuracy) <= 1:
            return f"it returns ({best}, {accuracy}), and the number of one of {models} models and its accuracy are asked for"
        reported.append(float(accuracy))
    mean, figures = sum(reported) / len(reported), right.float()
    of_all, halves = figures[int(best)].mean(), [part.mean(1) for part in figures.split(rows // 2, 1)]
    if mean > 0.52:
        usual = [
            (of_all, "it is reported on the rows that chose it"),
            (halves[0].max(), "it is reported on the half that chose it, and the other half is not used"),
            (halves[1].max(), "the second half chooses again: its best figure is reported, and not that of the model chosen"),
            (halves[1][int(best)], "all rows have chosen it, those that report, too"),
        ]
        why = next((said for value, said in usual if abs(float(value) - reported[-1]) < 1e-6), "it was chosen for that figure")
        return f"of models that guess, an accuracy of {mean:.2f} is reported on average, and it is 0.50: {why}"
    if mean < 0.48:
        return f"of models that guess, an accuracy of {mean:.2f} is reported on average, and it is 0.50: too low"
    skills = torch.linspace(0.5, 0.9, 9)
    picked, told = [], []
    for _ in range(50):
        best, accuracy = choose(torch.rand(9, rows, generator=generator) < skills[:, None])
        picked.append(float(skills[int(best)]))
        told.append(float(accuracy))
    true, said = sum(picked) / 50, sum(told) / 50
    if true < 0.82:
        return f"of nine models, 50 % to 90 % right, it takes one of {true:.0%} on average: it hardly chooses"
    return "" if abs(said - true) < 0.03 else f"the models that it takes are {true:.0%} right, and it reports {said:.0%}"
