"""What the labels are, and what a model that reads no text would reach: said before the first step, so that nonsense shows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.console import note
from engine.data.places import UNNAMED
from engine.task import held_out
from tasks.classification.labels import Labels

MOST = 20  # labels that are listed


def summarise(labels: Labels, targets: Mapping[str, np.ndarray], problem: str) -> None:
    """Print the labels with their counts, and the trivial baseline's figure on each evaluation set.

    ``targets``: of each split ids [N], a matrix of 0 and 1 [N, C], or values [N].
    """
    split = next(iter(targets))  # the training data, if they are there
    known = targets[split]
    if problem == "regression":
        line = f"values from {known.min():.4g} to {known.max():.4g}, mean {known.mean():.4g}"
    else:
        counts = known.sum(0).astype(int) if known.ndim == 2 else np.bincount(known, minlength=len(labels.names))
        line = ", ".join(f"{name} ({count})" for name, count in list(zip(labels.names, counts, strict=True))[:MOST])
        line += f", and {len(counts) - MOST} more" if len(counts) > MOST else ""
        if known.ndim == 2 and (without := int((known.sum(1) == 0).sum())):
            line += f"; {without} of {len(known)} rows have none"
    note(f"labels of the {split} data: {line}")
    for name, values in held_out(targets).items():
        where = "evaluation" if name == UNNAMED else name
        note(f"to beat on the {where} data: {baseline(labels.names, known if split == 'train' else values, values)}")


def baseline(names: tuple[str, ...], known: np.ndarray, held: np.ndarray) -> str:
    """``always 5: accuracy 0.40``: the label that is most frequent in ``known``, or its mean, for each row of ``held``."""
    if held.ndim == 2:
        best = int(known.sum(0).argmax())
        right = held[:, best].sum()
        return f"always {names[best]}: f1_micro {2 * right / (len(held) + held.sum()):.2f}"
    if held.dtype == np.int64:
        best = int(np.bincount(known).argmax())
        return f"always {names[best]}: accuracy {(held == best).mean():.2f}"
    return f"always {known.mean():.4g}: rmse {np.sqrt(((held - known.mean()) ** 2).mean()):.4g}"
