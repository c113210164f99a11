"""``python run.py inspect``: what is wrong with data of texts and labels, before a model is trained on them, or after.

One line for each thing that is found; the rows themselves, with their texts, go to ``--output``.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.commands.output import check_output, check_writable, without_formula, writing
from engine.console import note, say, shown
from engine.data.sources import Source, SourceConfig, refuse_missing
from engine.data.tables import names_of_rows
from engine.errors import UsageError
from engine.findings.repeats import first_of_each, near, normal
from engine.finished import Find, open_model
from tasks.classification.column import Rule
from tasks.classification.labels import read_labels
from tasks.classification.suspects import suspected
from tasks.classification.task import Classification
from tasks.text import refuse_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from tasks.flags import InspectConfig

HEADER = ["finding", "split", "row", "other_split", "other_row", "score", "label", "other_label", "text"]
OPTIONS = ("text_column", "text_pair_column", "label_column", "problem", "label_names", "label_separator", "label_values")
MOST_LABELS = 12  # in a line


@dataclass(frozen=True)
class Rows:
    """All splits one behind the other: of each row its split, its name, its text, its label in words."""

    splits: list[str]
    names: list[str]
    texts: list[str]
    labels: list[str]

    def line(self, finding: str, row: int, other: int | None = None, score: float | None = None, label: str = "") -> list[Any]:
        """Under HEADER."""
        beside = ["", ""] if other is None else [self.splits[other], self.names[other]]
        other_label = label if other is None else self.labels[other]
        rounded = "" if score is None else round(score, 4)
        return [finding, self.splits[row], self.names[row], *beside, rounded, self.labels[row], other_label, self.texts[row]]


def inspect(config: InspectConfig, texts: Sequence[str], find: Find) -> list[list[Any]]:
    """The command; returns the lines of ``--output``. Raises UsageError, DataError, ModelError."""
    if texts:
        raise UsageError(f"inspect takes no texts, found {texts[0]!r}: name the data with --train-file or --data")
    refuse_settings(config, "inspect", "revision", "tokenizer", "add_tokens", "more_train_file")
    files = [config.train_file, config.eval_file, config.data]
    check_output("--output", config.output, [".csv"], inputs=files, model="" if config.model == "auto" else config.model)
    refuse_missing(config)
    finished = None if config.model == "auto" else open_model(config.model, find, device=config.device)
    task = task_of(config, find, None if finished is None else finished[0])
    tables = task.splits()
    rows, targets, names = read(task, tables, config)
    found = [*described(rows, tables, targets, names), *repeated(rows), *disagreeing(rows)]
    if config.near:
        found += nearly(rows, config.near)
    if finished is not None:
        found += suspected(finished, tables, targets, names, rows)
    if not found:
        say("nothing was found")
    if config.output:
        check_writable({"text": [line[-1] for line in found]}, Path(config.output), "the data")
        with writing("--output", Path(config.output)) as stream:
            safe = [[without_formula(cell) for cell in line] for line in found] if config.excel_safe else found
            csv.writer(stream).writerows([HEADER, *safe])
        say(f"{len(found)} lines written to {config.output}")
    return found


def task_of(config: InspectConfig, find: Find, finished: Any) -> Classification:
    """The task that reads the data: of a finished model its own, with what is given besides. Raises UsageError."""
    kind = find(config.task) if finished is None else type(finished)
    if not issubclass(kind, Classification):
        raise UsageError(f"inspect looks at texts with labels, and {kind.__name__} has none: --task classification")
    given = {name: value for name in OPTIONS if (value := getattr(config, name)) is not None}
    names = {field.name for field in dataclasses.fields(SourceConfig)}
    plain = SourceConfig(**{name: value for name, value in vars(config).items() if name in names} | {"model": "auto"})
    options = kind.Options(**given) if finished is None else dataclasses.replace(finished.options, **given)
    task = kind(options, Source(plain))
    task.labels = None if finished is None else finished.labels
    return task


def read(
    task: Classification, tables: Mapping[str, Dataset], config: InspectConfig
) -> tuple[Rows, dict[str, np.ndarray], tuple[str, ...]]:
    """All rows, their targets by split, and the names of the labels. Raises DataError for labels that cannot be read."""
    o = task.options
    names = tuple(name.strip() for name in o.label_names.split(",")) if o.label_names else None
    if names is None and task.source.is_own:
        names = task.default_names
    rule = Rule(task.label_columns, o.problem, o.label_separator, o.label_values or "auto", names)
    if task.labels is not None and o.problem != "regression":
        rule = dataclasses.replace(rule, names=task.labels.names, whose="the model", renames=False)
    labels, targets = read_labels(tables, rule)
    rows = Rows([], [], [], [])
    for split, table in tables.items():
        name = names_of_rows(table)
        columns = [table[column][:] for column in (o.text_column, o.text_pair_column) if column]
        rows.splits.extend([split] * len(table))
        rows.names.extend(map(name, range(len(table))))
        rows.texts.extend(
            "\n".join("" if cell is None else str(cell) for cell in cells) for cells in zip(*columns, strict=True)
        )
        rows.labels.extend(in_words(target, labels.names) for target in targets[split])
    return rows, targets, labels.names


def text_of(cell: Any) -> str:
    return "" if cell is None else str(cell)


def in_words(target: Any, names: Sequence[str]) -> str:
    if isinstance(target, np.ndarray):
        return "|".join(names[int(i)] for i in np.flatnonzero(target))
    return names[int(target)] if isinstance(target, np.integer) else f"{float(target):g}"


def described(
    rows: Rows, tables: Mapping[str, Dataset], targets: Mapping[str, np.ndarray], names: Sequence[str]
) -> list[list[Any]]:
    """Sizes, lengths, shares of the labels; the empty texts are found."""
    found = []
    for split, table in tables.items():
        here = [i for i, each in enumerate(rows.splits) if each == split]
        words = np.array([len(rows.texts[i].split()) for i in here])
        middle, most = np.quantile(words, [0.5, 0.95])
        say(
            f"{split}: {len(table):,} rows, {words.min()} to {words.max()} words (median {middle:g}, 95% have at most {most:g})"
        )
        say(f"{split}: {shares(targets[split], names)}")
        if empty := [i for i in here if not rows.texts[i].strip()]:
            say(f"{split}: {some(len(empty), len(here))} have no text, such as {rows.names[empty[0]]}")
        found += [rows.line("empty", i) for i in empty]
    return found


def shares(values: np.ndarray, names: Sequence[str]) -> str:
    """``labels a 50.0%, b 50.0%``, the most frequent first."""
    if values.dtype == np.float32 and values.ndim == 1:
        return f"values from {values.min():g} to {values.max():g}, mean {values.mean():.4g}"
    counts = values.sum(0) if values.ndim == 2 else np.bincount(values, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    said = ", ".join(f"{shown(names[i], 40)} {100 * counts[i] / len(values):.1f}%" for i in order[:MOST_LABELS])
    return f"labels {said}" + (f", and {len(order) - MOST_LABELS} more" if len(order) > MOST_LABELS else "")


def some(number: int, of: int) -> str:
    return f"{number:,} of {of:,} rows ({100 * number / of:.1f}%)"


def repeated(rows: Rows) -> list[list[Any]]:
    """Rows whose text stands in an earlier row of the same split, or in another split before it."""
    found: list[list[Any]] = []
    first: dict[tuple[str, str], int] = {}
    order = [*dict.fromkeys(rows.splits)]
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, (split, text) in enumerate(zip(rows.splits, rows.texts, strict=True)):
        if not (key := normal(text)):
            continue
        for earlier in order[: order.index(split) + 1]:
            if (other := first.get((earlier, key))) is not None:
                pairs.setdefault((split, earlier), []).append((i, other))
        first.setdefault((split, key), i)
    for (split, earlier), each in pairs.items():
        i, other = each[0]
        where = "of an earlier row" if split == earlier else f"of a row of {earlier}"
        number = some(len(each), rows.splits.count(split))
        say(f"{split}: {number} have the text {where}, such as {rows.names[i]} that of {rows.names[other]}")
        found += [rows.line("repeated", i, other) for i, other in each]
    return found


def disagreeing(rows: Rows) -> list[list[Any]]:
    """Rows whose label is not that of the first row with the same text."""
    pairs = [(i, f) for i, f in enumerate(first_of_each(rows.texts)) if rows.labels[i] != rows.labels[f]]
    if pairs:
        i, f = pairs[0]
        both = f"{shown(rows.labels[i], 40)!r}, and {rows.names[f]} {shown(rows.labels[f], 40)!r}"
        say(f"labels: {some(len(pairs), len(rows.texts))} have another label than an earlier row with their text, such as "
            f"{rows.names[i]} {both}")  # fmt: skip
    return [rows.line("disagreeing", i, f) for i, f in pairs]


def nearly(rows: Rows, least: float) -> list[list[Any]]:
    """Rows whose text nearly is that of an earlier row."""
    found: list[list[Any]] = []
    by: dict[tuple[str, str], list[Any]] = {}
    for pair in near(rows.texts, rows.splits, least):
        by.setdefault((rows.splits[pair.row], rows.splits[pair.earlier]), []).append(pair)
    for (split, earlier), pairs in by.items():
        best = max(pairs, key=lambda pair: pair.similarity)
        where = "an earlier row" if split == earlier else f"a row of {earlier}"
        say(
            f"{split}: {some(len(pairs), rows.splits.count(split))} nearly have the text of {where}, such as "
            f"{rows.names[best.row]} that of {rows.names[best.earlier]} (similarity {best.similarity:.2f})"
        )
        found += [rows.line("nearly", pair.row, pair.earlier, pair.similarity) for pair in pairs]
        if split != earlier and earlier == "train":
            note(f"warning: a model knows these rows of {split} from training: its figures will flatter")
    return found
