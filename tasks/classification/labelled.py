"""What has labels, whatever carries them: how they are read and named, the head, the loss, the figures, what is predicted.

The loss is cross-entropy, binary cross-entropy or the squared error, as the transformers heads compute it, but as a sum.
Next: classifier.py, which puts texts in front of it; image_classification/task.py does so with pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.console import counted, note
from engine.data.batch import Batch
from engine.data.more import more_rows, rows_that_stay
from engine.data.sources import Source
from engine.data.tables import below, chosen
from engine.errors import DataError, ModelError, UsageError
from engine.task import Examples, Row, held_out
from tasks.classification.adjusted import Adjustment
from tasks.classification.calibration import FIELD, Calibration
from tasks.classification.column import Rule, class_names
from tasks.classification.labels import Labels, listed, read_labels
from tasks.classification.metrics import ClassificationMetrics
from tasks.classification.mistakes import Mistakes, WrongLabels, WrongValues
from tasks.classification.summary import summarise
from tasks.outputs import are_unnamed, names_of_outputs, names_told, trained_names, with_names
from tasks.text import TextOptions, TextTask

if TYPE_CHECKING:
    from datasets import Dataset

NEW = "new"  # the rows of --more-train-file, while their labels are read
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


class LabelOptions(TextOptions, Protocol):
    """What the options of a task with labels must have: tasks/options.py, Labelling."""

    @property
    def problem(self) -> str: ...
    @property
    def label_names(self) -> str | None: ...
    @property
    def label_separator(self) -> str: ...
    @property
    def label_values(self) -> Any: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def class_weights(self) -> str | None: ...

    def columns_in(self, label_column: str) -> tuple[str, ...]: ...


L = TypeVar("L", bound=LabelOptions)


class Labelled(TextTask[L]):
    """Rows with labels. A subclass says what carries them: ``label_column``, ``with_targets``, ``collate``, ``predict``."""

    head: ClassVar[str]  # how the classes of trained classifiers end
    default_names: tuple[str, ...] | None = None  # of the classes, where the data have none of their own

    def __init__(self, options: L, source: Source):
        super().__init__(options, source)
        self.labels: Labels | None = None
        self.calibration = Calibration()
        self._weights: Tensor | None = None
        self.problem: str = options.problem
        self._held_out: dict[str, Dataset] = {}
        self._said_calibrated = False

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def label_column(self) -> str:
        """The column of the labels, or several of them with commas between."""
        raise NotImplementedError

    @property
    def label_columns(self) -> tuple[str, ...]:
        """One; or of one-hot data a column for each label. Raises UsageError."""
        if self.options.problem != "multi_label" and "," in self.label_column:
            raise UsageError(f"--label-column {self.label_column}: several columns, of 0 and 1, need --problem multi_label")
        return self.options.columns_in(self.label_column)

    def with_targets(self, tables: Mapping[str, Dataset], targets: Mapping[str, np.ndarray]) -> dict[str, Examples]:
        """The rows of each split, with ``targets`` as their "labels"."""
        raise NotImplementedError

    def labelled(self, rows: Sequence[Row], inputs: dict[str, Any], counts: Mapping[str, Any]) -> Batch:
        """A batch of rows that have "labels"; ``counts``: the others of its counts."""
        labels = torch.from_numpy(np.stack([row["labels"] for row in rows]))  # [B], or [B, L] for multi-label
        num_items = int((labels != -100).sum()) if self.problem == "single_label" else labels.numel()
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=num_items, **counts)

    def strata(self, table: Dataset) -> Sequence[Any] | None:
        return table[self.label_column][:] if self.options.problem == "single_label" else None

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        if not tables:
            return {}
        more = None if self.is_finished else more_rows(self.source, self.columns())
        given = tables if more is None else {**tables, NEW: more}
        self.labels, targets = read_labels(given, self.rule(tables), self.unlimited.pop("train", None))
        if more is not None:
            self.labels = self.grown(tables, targets, more)
        summarise(self.labels, targets, self.problem)
        if self.is_finished:  # nothing is trained any more: only what is measured is made
            tables.pop("train", None)
        self._held_out = held_out(tables)
        self.class_weights(torch.device("cpu"))  # refused before the model is loaded
        return self.with_targets(tables, targets)

    def grown(self, tables: dict[str, Dataset], targets: dict[str, np.ndarray], more: Dataset) -> Labels:
        """Puts the rows of ``--more-train-file`` below the training rows that stay, in place, and their targets likewise."""
        names, old = self.carriers(), rows_that_stay(self.source.config, len(tables["train"]), len(more))
        new = targets.pop(NEW)
        targets["train"] = np.concatenate([targets["train"][old], new])
        tables["train"] = below(chosen(tables["train"], old).select_columns(names), more.select_columns(names))
        note(f"train data: {counted(len(new), 'new row')}, and {len(old):,} of those before")
        labels, found = self.known(self.labels), targets["train"]
        if self.problem == "regression":
            return replace(labels, counts=np.array([len(found)]))
        if self.problem == "multi_label":
            return replace(labels, counts=found.sum(0), num_rows=len(found))
        return replace(labels, counts=np.bincount(found, minlength=len(labels.names)))

    def carriers(self) -> list[str]:
        """The columns of what the labels are of."""
        raise UsageError("--more-train-file is for texts with labels: leave it out")

    def rule(self, tables: Mapping[str, Dataset]) -> Rule:
        """How labels are read. The names are those of a finished model, else the user's, else those of the classifier that
        training goes on from (its head keeps its meaning), else the task's own; None: whatever the training data hold.

        Raises UsageError where model and problem do not fit.
        """
        o, model = self.options, self.source.config.model
        rule = Rule(self.label_columns, o.problem, o.label_separator, o.label_values or "auto")
        if self.labels is not None:
            renames = are_unnamed(self.labels.names) or not self.source.is_replaced
            return replace(rule, names=self.labels.names, whose="the model", renames=renames)
        if o.label_names:
            names = tuple(name.strip() for name in o.label_names.split(","))
            least = 1 if o.problem == "multi_label" else 2
            if len(names) < least or "" in names or len(set(names)) < len(names):
                raise UsageError(f"--label-names needs two or more different names, found {o.label_names!r}")
            return replace(rule, names=names)
        data = self.source.taken_data
        is_own = data is not None and self.hub_data is not None and data.hub_name == self.hub_data.path
        default = self.default_names if is_own or class_names(tables["train"], self.label_columns[0]) is None else None
        if (own := self.names_to_keep(tables)) is None:
            return replace(rule, names=default, whose="the task")
        if (kind := self.config.problem_type) not in (None, PROBLEM_TYPES[o.problem]):
            raise UsageError(
                f"--problem {o.problem}: {model} has been trained for another, {kind} (--label-names replaces its head)"
            )
        if default not in (None, own):
            raise DataError(
                f"the labels of {model} are {listed(own)}, those of the data are {listed(default or ())}: "
                "--label-names, with the names you want in order, trains on with these"
            )
        note(f"labels: those of {model}: {listed(own)}")
        return replace(rule, names=own, whose=model, renames=default == own)

    def names_to_keep(self, tables: Mapping[str, Dataset]) -> tuple[str, ...] | None:
        """The labels of a classifier that training goes on from; None: the model has none, or they go."""
        return trained_names(self.config, self.head)

    def adopt(self, model: nn.Module) -> None:
        super().adopt(model)
        names = names_of_outputs(model, "labels")
        self.labels = Labels(names, np.zeros(len(names)))
        if (weights := getattr(model.config, "class_weights", None)) is not None:
            if not isinstance(weights, list) or len(weights) != len(names) or not all(isinstance(w, float) for w in weights):
                raise ModelError(f"config.json of the model must have a class weight for each of the {len(names)} labels")
            self._weights = torch.tensor(weights)
        if model.config.problem_type is not None or len(names) == 1:  # type: ignore[union-attr]
            kinds = {kind: problem for problem, kind in PROBLEM_TYPES.items()}
            self.problem = kinds.get(str(model.config.problem_type), "regression")  # type: ignore[union-attr]
        if self.problem == "regression" and len(names) > 1:
            raise ModelError(f"config.json of the model says regression, which is of one number, and names {len(names)} labels")
        self.calibration = Calibration.of(model.config, self.problem, len(names))
        if self.problem != self.options.problem:
            options: Any = self.options
            self.options = replace(options, problem=self.problem, label_smoothing=0.0, class_weights=None)

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        names = self.known(self.labels).names
        model = self.with_new_head(problem_type=PROBLEM_TYPES[self.options.problem], **with_names(names))
        if hasattr(model.config, FIELD):  # of the model that training goes on from: it is not this one's
            delattr(model.config, FIELD)
            note(
                f"{self.path} is calibrated, and this model will not be: run evaluate --calibrate, or --threshold, again when "
                "it is trained"
            )
        return model  # type: ignore[no-any-return]

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path, ignore_mismatched_sizes=True)
        for name, found, wanted in sorted(report["mismatched_keys"], reverse=True):
            raise ModelError(f"model {path}: {name} is {list(found)} in the file, but {list(wanted)} by config.json")
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"model {path} is not a finished classifier: it lacks {missing[0]}")
        return model  # type: ignore[no-any-return]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, labels = outputs.logits.float(), batch.targets["labels"]  # [B, C]; [B], or [B, C] for multi-label
        if self.problem == "regression":
            return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")
        logits, weights = self.calibration.scaled(logits), self.class_weights(logits.device)
        if self.problem == "multi_label":
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum")
        return F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.options.label_smoothing)

    def compared(self, outputs: Any, batch: Batch) -> Tensor:
        """[B, C]; of a regression the values."""
        logits: Tensor = outputs.logits.float()
        if self.problem == "regression":
            return logits
        return logits.sigmoid() if self.problem == "multi_label" else logits.softmax(-1)

    def class_weights(self, device: torch.device) -> Tensor | None:
        """[C] or None. Items are examples whatever they weigh, so the loss stays a mean over examples. With several labels
        at once it is of the examples that have the label, against those that have not."""
        if self._weights is None and self.options.class_weights is not None:
            self._weights = torch.tensor(self.known(self.labels).weights(self.options.class_weights), dtype=torch.float32)
        if self._weights is not None:
            self._weights = self._weights.to(device)  # moved once
        return self._weights

    def metrics(self, split: str) -> ClassificationMetrics:
        names = self.known(self.labels).names
        if self.calibration.temperature != 1 and not self._said_calibrated:
            self._said_calibrated = True
            note(f"calibrated: loss, ece and brier are those of the logits divided by {self.calibration.temperature:.4g}")
        return ClassificationMetrics(self.problem, names, self.calibration if self.is_finished else None)

    def adjustment(self, split: str, *, calibrate: bool, threshold: Literal["auto", "none"] | None) -> Adjustment:
        """Learned from the model's own logits: until it is there the model has neither temperature nor thresholds."""
        before, self.calibration = self.calibration, Calibration()
        return Adjustment(self.problem, self.known(self.labels).names, before, calibrate=calibrate, threshold=threshold)

    def review(self, split: str) -> Mistakes | WrongLabels | WrongValues:
        names, shown = self.known(self.labels).names, self.evaluated(self._held_out[split])
        if self.problem == "regression":
            return WrongValues(shown)
        kind = WrongLabels if self.problem == "multi_label" else Mistakes
        return kind(names, shown, self.calibration, self._held_out[split])

    def evaluated(self, table: Dataset) -> Dataset:
        """What of the evaluated rows is shown of those that are wrong."""
        raise NotImplementedError

    def save(self, model: nn.Module, directory: Path) -> None:
        if self._weights is not None:
            model.config.class_weights = self._weights.tolist()  # type: ignore[union-attr]
        super().save(model, directory)

    # ----------------------------------------------------------------------------------------------------- inference

    def prediction(self, logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
        """From one row of logits: [C]."""
        if self.problem == "regression":
            return {"value": float(logits[0])}
        scaled = self.calibration.scaled(logits)
        if self.problem == "multi_label":
            p = dict(zip(names, scaled.sigmoid().tolist(), strict=True))
            chosen = [names[i] for i in self.calibration.chosen(logits).nonzero()[:, 0].tolist()]
            return {"label": chosen, "score": max(p.values()), "probabilities": p}
        p = dict(zip(names, scaled.softmax(-1).tolist(), strict=True))
        best = names[int(self.calibration.best(logits))]
        return {"label": best, "score": p[best], "probabilities": p}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        if "value" in prediction:
            return f"{prediction['value']:.4f}"
        p = prediction["probabilities"]
        if isinstance(prediction["label"], list):
            return ", ".join(f"{name} ({p[name]:.2f})" for name in prediction["label"]) or "(no label)"
        return f"{prediction['label']} ({prediction['score']:.2f})"

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """Label or value beside those of the data, as ``predicted_label``; in a CSV file a column for each probability."""
        cells = {f"predicted_{key}" if key in ("label", "value") else key: cell for key, cell in prediction.items()}
        if flat and isinstance(labels := cells.get("predicted_label"), list):
            cells["predicted_label"] = "|".join(labels)
        if flat and "probabilities" in cells:
            cells |= {f"probability_{name}": p for name, p in cells.pop("probabilities").items()}
        return super().columns_of(cells, flat)

    def label_names(self, model: nn.Module) -> Sequence[str]:
        names = names_told(model)
        return names if len(names) > 1 else []
