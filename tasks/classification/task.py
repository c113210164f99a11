"""Classify texts: two or more classes, several labels at once, or a number (regression).

    {"text": "Great tacos, slow service.", "label": "positive"}                    --problem single_label (default)
    {"text": "You idiot, I will find you", "label": ["insult", "threat"]}          --problem multi_label
    {"text": "A soft, dry Riesling", "label": 4.5}                                 --problem regression
    {"premise": "...", "hypothesis": "...", "label": "neutral"}   --text-column premise --text-pair-column hypothesis

The loss is cross-entropy, binary cross-entropy or the squared error, as the transformers heads compute it, but as a sum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns, delimiter_hint
from engine.data.places import UNNAMED
from engine.data.plan import eval_batches
from engine.data.sources import Source
from engine.data.tables import RowName, row_name
from engine.data.tokens import TokenDataset, Tokens, cells_of, tokenize_now
from engine.errors import DataError, ModelError, UsageError
from engine.model.capabilities import counts_ends
from engine.task import Examples, Row, held_out
from tasks.classification.column import Rule, class_names
from tasks.classification.labels import Labels, listed, read_labels
from tasks.classification.metrics import ClassificationMetrics
from tasks.classification.mistakes import Mistakes, WrongLabels, WrongValues
from tasks.classification.summary import summarise
from tasks.options import ClassificationOptions
from tasks.text import TextTask, check_loaded, checked_texts, names_of_outputs, trained_names

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(TextTask[ClassificationOptions]):
    """Texts with labels; the data are the user's own."""

    Options = ClassificationOptions
    hub_model = "distilbert-base-uncased"
    auto_class = AutoModelForSequenceClassification
    pipeline_tag = "text-classification"
    default_names: tuple[str, ...] | None = None  # of the classes, where the data have none of their own

    def __init__(self, options: ClassificationOptions, source: Source):
        super().__init__(options, source)
        self.labels: Labels | None = None
        self.is_finished = False  # has a finished model been adopted?
        self._weights: Tensor | None = None
        self.problem: str = options.problem
        self._held_out: dict[str, Dataset] = {}

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        o = self.options
        if o.problem != "multi_label" and "," in o.label_column:
            raise UsageError(f"--label-column {o.label_column}: several columns, of 0 and 1, need --problem multi_label")
        return [name for name in (o.text_column, o.text_pair_column, *o.label_columns) if name]

    def strata(self, table: Dataset) -> Sequence[Any] | None:
        return table[self.options.label_column][:] if self.options.problem == "single_label" else None

    def examples(self) -> dict[str, Examples]:
        o = self.options
        tables = self.splits()
        if not tables:
            return {}
        self.labels, targets = read_labels(tables, self.rule(tables), self.unlimited.get("train"))
        summarise(self.labels, targets, self.problem)
        if self.is_finished:  # nothing is trained any more: only what is measured is made
            tables.pop("train", None)
        self._held_out = held_out(tables)
        self.class_weights(torch.device("cpu"))  # refused before the model is loaded
        warn_of_overlap(tables, o.text_column, o.text_pair_column)
        return {split: self.tokenized(table, split, targets[split]) for split, table in tables.items()}

    def rule(self, tables: Mapping[str, Dataset]) -> Rule:
        """How labels are read. The names are those of a finished model, else the user's, else those of the classifier that
        training goes on from (its head keeps its meaning), else the task's own; None: whatever the training data hold.

        Raises UsageError where model and problem do not fit.
        """
        o, model = self.options, self.source.config.model
        rule = Rule(o.label_columns, o.problem, o.label_separator, o.label_values or "auto")
        if self.labels is not None:
            no_names = all(re.fullmatch(r"LABEL_\d+", name) for name in self.labels.names)
            return replace(rule, names=self.labels.names, whose="the model", renames=no_names or not self.source.is_replaced)
        if o.label_names:
            names = tuple(name.strip() for name in o.label_names.split(","))
            least = 1 if o.problem == "multi_label" else 2
            if len(names) < least or "" in names or len(set(names)) < len(names):
                raise UsageError(f"--label-names needs two or more different names, found {o.label_names!r}")
            return replace(rule, names=names)
        data = self.source.taken_data
        is_own = data is not None and self.hub_data is not None and data.hub_name == self.hub_data.path
        default = self.default_names if is_own or class_names(tables["train"], o.label_columns[0]) is None else None
        if (own := trained_names(self.config, "ForSequenceClassification")) is None:
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

    def adopt(self, model: nn.Module) -> None:
        self.is_finished = True
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
        if self.problem != self.options.problem:
            changes: dict[str, Any] = {"problem": self.problem, "label_smoothing": 0.0, "class_weights": None}
            self.options = replace(self.options, **changes)

    def tokenized(self, table: Dataset, split: str, targets: np.ndarray) -> Examples:
        """Token ids beside the labels; says how many texts were cut or blank."""
        o, row = self.options, partial(row_name, table)
        texts = checked_texts(table[o.text_column], f"{split} data, column {o.text_column!r}", row)
        pairs = None
        if o.text_pair_column:
            pairs = checked_texts(table[o.text_pair_column], f"{split} data, column {o.text_pair_column!r}", row)
        tokens = self.tokenize(texts, pairs, f"{split} data", row)
        if self.counts_ends:
            self.refuse_ends(tokens, f"{split} data", row)
        return TokenDataset(tokens, {"labels": targets}, row_name=row)

    @cached_property
    def counts_ends(self) -> bool:
        """Must all rows of a batch have as many end tokens?"""
        return self.skeleton is not None and counts_ends(self.skeleton)

    def ends_in(self, tokens: Tokens) -> np.ndarray:
        """[N]: the model's end tokens in each row."""
        return np.add.reduceat(np.asarray(tokens.ids) == self.config.eos_token_id, tokens.offsets[:-1], dtype=np.int64)

    def refuse_ends(self, tokens: Tokens, where: str, row: RowName) -> None:
        """Raises DataError for a row whose text holds an end token: the head reads the last one, and takes no batch in which
        rows have more than others. ModelError where the tokenizer adds none."""
        pair = ["a"] if self.options.text_pair_column else None
        usual = int(self.ends_in(tokenize_now(["a"], pair, self.tokenizer, self.max_length, where))[0])
        end = self.tokenizer.convert_ids_to_tokens(self.config.eos_token_id)
        if not usual:
            raise ModelError(
                f"model {self.path} reads the vector of the end token {end!r}, and its tokenizer puts none behind a text: take "
                "the tokenizer that belongs to it, or another model"
            )
        if len(odd := np.flatnonzero(self.ends_in(tokens) != usual)):
            raise DataError(
                f"{where}, {row(int(odd[0]))}: the text holds {end!r}, the model's end token, and its head takes no batch in "
                "which a text has more of them than another: remove it from the text"
            )

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.tokenizer)
        labels = torch.from_numpy(np.stack([row["labels"] for row in rows]))  # [B], or [B, L] for multi-label
        num_items = int((labels != -100).sum()) if self.problem == "single_label" else labels.numel()
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=num_items, **counts)

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        names = self.known(self.labels).names
        path = self.path
        model, report = self.from_pretrained(
            path,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
            problem_type=PROBLEM_TYPES[self.options.problem],
            ignore_mismatched_sizes=True,
        )
        check_loaded(model, report, path)
        config = model.config.get_text_config()  # a model of pictures and text has one of its own
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        return self.with_room_for_the_tokens(model, path)

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path, ignore_mismatched_sizes=True)
        for name, found, wanted in sorted(report["mismatched_keys"], reverse=True):
            raise ModelError(f"model {path}: {name} is {list(found)} in the file, but {list(wanted)} by config.json")
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"model {path} is not a finished classifier: it lacks {missing[0]}")
        return self.with_room_for_the_tokens(model, path)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, labels = outputs.logits.float(), batch.targets["labels"]  # [B, C]; [B], or [B, C] for multi-label
        if self.problem == "regression":
            return F.mse_loss(logits.squeeze(-1), labels, reduction="sum")
        if self.problem == "multi_label":
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        weights = self.class_weights(logits.device)
        return F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.options.label_smoothing)

    def class_weights(self, device: torch.device) -> Tensor | None:
        """[C] or None. Items are examples whatever they weigh, so the loss stays a mean over examples."""
        if self._weights is None and self.options.class_weights is not None:
            self._weights = torch.tensor(self.known(self.labels).weights(self.options.class_weights), dtype=torch.float32)
        if self._weights is not None:
            self._weights = self._weights.to(device)  # moved once
        return self._weights

    def metrics(self, split: str) -> ClassificationMetrics:
        return ClassificationMetrics(self.problem, self.known(self.labels).names)

    def review(self, split: str) -> Mistakes | WrongLabels | WrongValues:
        columns = [name for name in (self.options.text_column, self.options.text_pair_column) if name]
        names, texts = self.known(self.labels).names, self._held_out[split].select_columns(columns)
        if self.problem == "regression":
            return WrongValues(texts)
        return WrongLabels(names, texts) if self.problem == "multi_label" else Mistakes(names, texts)

    def save(self, model: nn.Module, directory: Path) -> None:
        if self._weights is not None:
            model.config.class_weights = self._weights.tolist()  # type: ignore[union-attr]
        super().save(model, directory)

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        o = self.options
        if list(rows) == ["text"] and not o.text_pair_column:  # a .txt file has no column but this one
            return list(checked_texts(rows["text"], "the input"))
        for name in filter(None, (o.text_column, o.text_pair_column)):
            if name not in rows:
                hint = delimiter_hint(list(rows)) or ": name it with --text-column"
                raise DataError(f"the input has no column {name!r} (it has: {', '.join(rows)}){hint}")
        texts = checked_texts(rows[o.text_column], "the input")
        if not o.text_pair_column:
            return list(texts)
        return list(zip(texts, checked_texts(rows[o.text_pair_column], "the input"), strict=True))

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text (or pair): ``{"label", "score", "probabilities": {name: p}}``; ``{"value"}`` for regression."""
        texts = list(inputs)
        if not texts:
            return
        checked_texts([text for item in texts for text in ([item] if isinstance(item, str) else item)], "the input")
        if self.options.text_pair_column and isinstance(texts[0], str):
            raise UsageError("this model compares two texts: give them as two columns of --input FILE")
        firsts, seconds = zip(*[(t, None) if isinstance(t, str) else t for t in texts], strict=True)
        tokens = tokenize_now(firsts, None if seconds[0] is None else seconds, self.tokenizer, self.max_length, "the input")
        if tokens.num_truncated:
            note(f"{tokens.num_truncated} of {len(texts)} texts cut to {self.max_length} tokens")
        rows = TokenDataset(tokens, {})
        if self.labels is None:
            self.adopt(model)
        assert self.labels is not None
        device = next(model.parameters()).device
        predictions: list[dict[str, Any]] = [{} for _ in texts]
        ends = self.ends_in(tokens) if self.counts_ends else np.zeros(len(rows), np.int64)
        for chunk in self.alike(rows.lengths, ends, layout):
            batch = self.collate([rows[i] | {"labels": np.int64(-100)} for i in chunk], layout).to(device)
            with torch.inference_mode():
                logits = model(**batch.inputs).logits.float().cpu()
            for i, row in zip(chunk, logits, strict=True):
                predictions[i] = self.prediction(row, self.labels.names)
        yield from predictions

    def alike(self, lengths: np.ndarray, ends: np.ndarray, layout: Layout) -> Iterator[list[int]]:
        """The rows in batches, longest first; in each as many end tokens, and rows of one length where padding matters."""
        for number in np.unique(ends):
            group = np.flatnonzero(ends == number)
            for batch in eval_batches(lengths[group], 32, same_length=layout.padding_matters):
                yield [int(group[i]) for _, i in batch]

    def prediction(self, logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
        """From one row of logits: [C]."""
        if self.problem == "regression":
            return {"value": float(logits[0])}
        if self.problem == "multi_label":
            p = dict(zip(names, logits.sigmoid().tolist(), strict=True))
            chosen = [name for name in names if p[name] >= 0.5]
            return {"label": chosen, "score": max(p.values()), "probabilities": p}
        p = dict(zip(names, logits.softmax(-1).tolist(), strict=True))
        best = max(p, key=p.__getitem__)
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
        names: Mapping[int, str] = getattr(getattr(model, "config", None), "id2label", None) or {}
        return [names[i] for i in sorted(names)] if len(names) > 1 else []


PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def warn_of_overlap(tables: Mapping[str, Dataset], column: str, pair_column: str | None) -> None:
    """Evaluation rows that stand in the training data, too, make the evaluation look better than it is."""
    if "train" not in tables:
        return

    def hashes(table: Dataset) -> np.ndarray:
        """[N]: of each row's texts; the texts themselves may be more than the memory holds."""
        texts = [cells_of(table[name]) for name in (column, pair_column) if name]
        return np.fromiter((hash(row) for row in zip(*texts, strict=True)), dtype=np.int64, count=len(table))

    for split, table in held_out(tables).items():
        if repeated := int(np.isin(hashes(table), hashes(tables["train"])).sum()):
            name = "evaluation" if split == UNNAMED else split
            note(f"warning: {repeated} of {len(table)} {name} texts stand in the training data, too")
