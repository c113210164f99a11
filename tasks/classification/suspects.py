"""Labels that may be wrong: where a model that has not seen a row is sure of another label than it has.

By confident learning (Northcutt, Jiang and Chuang, JAIR 2021), in cleanlab, on out-of-sample probabilities: those of rows
that the model was not trained on. Those of its training rows are in-sample: it has learned their labels, wrong ones, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import note, say, shown
from engine.errors import UsageError
from engine.installed import install
from engine.task import held_out

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from engine.data.batch import Batch

LEAST_ROWS = 20
MOST_CELLS = 50_000_000  # probabilities that are kept: 200 MB


def issues(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The rows whose label may be wrong, the likeliest first. ``probabilities``: [N, C]; ``labels``: [N], or [N, C] of several.

    Raises UsageError without cleanlab.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.multilabel_classification.filter import find_label_issues as find_issues_of_several
    except ModuleNotFoundError as error:
        mend = install("inspect")
        raise UsageError(f"labels that may be wrong are found by cleanlab, which is not installed: {mend}") from error
    if labels.ndim == 2:
        lists = [np.flatnonzero(row).tolist() for row in labels]
        return np.asarray(find_issues_of_several(lists, probabilities, return_indices_ranked_by="self_confidence"))
    return np.asarray(find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1))


class Said:
    """The probabilities of evaluated rows and their labels, gathered batch by batch, for ``issues``."""

    def __init__(self) -> None:
        self.found: list[tuple[list[int], np.ndarray, np.ndarray]] | None = []  # rows, [B, C], [B] or [B, C]; None: too many
        self.cells = 0

    def add(self, batch: Batch, p: Tensor, labels: np.ndarray) -> None:
        self.cells += p.numel()
        if self.cells > MOST_CELLS:
            self.found = None
        if self.found is not None:
            self.found.append(([row for _, row in batch.keys], p.cpu().numpy(), labels))

    def suspected(self) -> dict[int, int] | None:
        """The place of each row that ``issues`` finds, from 1; None without cleanlab, or where there is nothing to tell."""
        if self.found is None:
            note(
                f"labels that may be wrong were not looked for: more than {MOST_CELLS:,} probabilities; inspect --model does it"
            )
            return None
        if not self.found or (number := sum(len(rows) for rows, *_ in self.found)) < LEAST_ROWS:
            return None
        rows, p, labels = (np.concatenate(each) for each in zip(*self.found, strict=True))
        order = np.argsort(rows, kind="stable")
        try:
            with warnings.catch_warnings(action="ignore"):  # of classes that are too rare to be looked at
                found = issues(p[order].astype(np.float64), labels[order])
        except UsageError:  # it is not installed: inspect says how, and here it is one thing more
            return None
        except ValueError as error:
            note(f"labels that may be wrong were not looked for in these {number} rows: {error}")
            return None
        return {int(rows[order][each]): place for place, each in enumerate(found, start=1)}


def suspected(
    finished: tuple[Any, Any, Any],
    tables: Mapping[str, Dataset],
    targets: Mapping[str, np.ndarray],
    names: Sequence[str],
    rows: Any,
) -> list[list[Any]]:  # fmt: skip
    """Lines for the rows of the held-out splits. Raises UsageError where there are none."""
    task, model, layout = finished
    if task.problem == "regression":
        raise UsageError("--model: labels that are numbers are not looked at: leave it out")
    if not (sets := held_out(tables)):
        raise UsageError("--model looks for wrong labels in rows that it has not been trained on: name them with --eval-file")
    if "train" in tables:
        note("the training rows' labels are not looked at: the model may have learned them, wrong ones, too")
    found: list[list[Any]] = []
    for split, table in sets.items():
        if len(table) < LEAST_ROWS:
            note(f"{split}: {len(table)} rows are too few to tell wrong labels")
            continue
        said = task.predict(model, task.inputs_of({name: table[name][:] for name in table.column_names}), layout)
        p = np.array([[each["probabilities"][name] for name in names] for each in said])
        start = rows.splits.index(split)
        lines = [line_of(rows, start + int(i), p[i], targets[split][i], names) for i in issues(p, targets[split])]
        such = f", such as {lines[0][2]}: {shown(lines[0][6], 40)!r} may be {shown(lines[0][7], 40)!r}" if lines else ""
        share = 100 * len(lines) / len(table)
        say(f"{split}: {len(lines):,} of {len(table):,} rows ({share:.1f}%) may have a wrong label (cleanlab){such}")
        found += lines
    return found


def line_of(rows: Any, row: int, p: np.ndarray, label: Any, names: Sequence[str]) -> list[Any]:
    """With the probability that the row's label has (of several the least that is believed), and the label that it may have."""
    if isinstance(label, np.ndarray):
        believed = np.where(label > 0, p, 1 - p)
        return list(
            rows.line("suspected", row, None, float(believed.min()), "|".join(names[int(i)] for i in np.flatnonzero(p > 0.5)))
        )
    return list(rows.line("suspected", row, None, float(p[int(label)]), names[int(p.argmax())]))
