"""The judges of the exercises about packing, masks, the log, calibration and the best of many; what a judge is: judges.py."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
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
        if not own <= least + 1e-3:  # NaN, too
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


# ------------------------------------------------------------------------------------------------------------------- workers


def global_state() -> tuple[Any, ...]:
    """Of the generators that a whole process shares."""
    return torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]


def workers(mask: Callable[..., Any]) -> str:
    before = global_state()
    first = torch.as_tensor(mask(2000, 42, 0, 7))
    if global_state() != before:
        return "it draws from a global generator, or seeds it: what is masked hangs on who has drawn before"
    if first.dtype != torch.bool or tuple(first.shape) != (2000,):
        return f"it returns {first.dtype} of shape {tuple(first.shape)}, and bool of shape (2000,) is asked for"
    if not torch.equal(first, torch.as_tensor(mask(2000, 42, 0, 7))):
        return "called again with the same seed, epoch and row it gives another mask: a restart would mask other tokens"
    if not 0.12 < (share := float(first.double().mean())) < 0.18:
        return f"{share:.0%} of the tokens are masked, and 15 % are asked for"
    places = {"row": (42, 0, 8), "epoch": (42, 1, 7), "seed": (43, 0, 7)}
    for what, place in places.items():
        if torch.equal(first, torch.as_tensor(mask(2000, *place))):
            return f"every {what} has the same mask: the {what} is not used"
    masks = {place: tuple(torch.as_tensor(mask(64, *place)).tolist()) for place in neighbours()}
    for place, found in masks.items():
        twin = next(other for other, same in masks.items() if same == found)
        if twin != place:
            return f"seed, epoch and row {twin} and {place} have the same mask: combined so, the numbers say the same"
    return ""


def neighbours() -> list[tuple[int, int, int]]:
    """Seeds, epochs and rows among which a sum or a product meets itself."""
    return [(seed, epoch, row) for seed in (41, 42, 43) for epoch in range(3) for row in (*range(4), 1000, 1001)]


# --------------------------------------------------------------------------------------------------------------- logged-loss


def logged_loss(logged: Callable[..., Any]) -> str:
    steps = [(32.0, 16), (24.0, 16), (9.0, 1), (16.0, 16), (40.0, 16), (1.0, 1), (8.0, 4)]
    windows = [steps[i : i + 3] for i in range(0, 7, 3)]
    right = [sum(t for t, _ in w) / sum(n for _, n in w) for w in windows]
    means = [[t / n for t, n in w] for w in windows]
    found = list(logged(list(steps), 3))
    so_far = [sum(t for t, _ in steps[:end]) / sum(n for _, n in steps[:end]) for end in (3, 6, 7)]
    usual = (
        ([sum(m) / 3 for m in means], "each step weighs the same, and the last line is divided by steps that it does not have"),
        ([sum(m) / len(m) for m in means], "each step weighs the same: one row in a short step counts as much as 16 others"),
        (so_far, "a line holds all steps from the beginning, and not those since the line before"),
        (right[:2], "the steps behind the last full window are in no line"),
        ([sum(t for t, _ in w) / len(w) for w in windows], "sums are divided by steps: a line hangs on the batch size"),
    )
    if not alike(found, right):
        return next((said for values, said in usual if alike(found, values)), f"the lines are {found} and should be {right}")
    if alike(list(logged(steps[:3], 3)), right[:1]):
        empty = list(logged([(0.0, 0), (0.0, 0), (3.0, 2)], 2))
        return "" if empty[:1] == [None] and alike(empty[1:], [1.5]) else f"a window without rows has None, and not {empty[0]}"
    return "of 3 steps, and a line behind each 3, there should be one line"


def alike(found: list[Any], values: list[float]) -> bool:
    if len(found) != len(values) or not all(isinstance(value, (int, float)) for value in found):
        return False
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(found, values, strict=True))
