"""``python run.py evaluate``: loss and metrics of a finished model, on the run's own evaluation data or a labelled file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from engine.artifacts.directory import run_in
from engine.artifacts.report import MISTAKES, TAKEN
from engine.commands.findings import adjustment_of, check_adjustment, keep_findings, keep_learned, known_before, learning
from engine.commands.flags import EvaluateConfig, changes_in, with_model
from engine.commands.output import check_output, check_writable, without_formula, writing
from engine.commands.rows import row_looks
from engine.commands.slicing import check_judges, check_slices, slice_columns, slices_of, write_slices
from engine.config import TrainConfig
from engine.console import note, say, say_lines, shown
from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.data.files import check_form
from engine.data.form import Form
from engine.data.places import sets_of
from engine.distributed.world import World
from engine.errors import DataError, ModelError, UsageError
from engine.findings.rows import NAME as ROWS
from engine.findings.rows import dumps
from engine.finished import Find, open_model
from engine.loader import batches, eval_loader
from engine.precision import Precision, choose_precision, make_autocast
from engine.record.evaluate import evaluate as measure
from engine.record.figures import Evaluation, figure_text
from engine.settings.fields import user_path
from engine.task import Examples, Review, Task, held_out

MOST_CLASSES = 50  # in the table on the terminal


class Look(Protocol):
    """What is shown the outputs of an evaluation, batch by batch."""

    def update(self, outputs: Any, batch: Batch) -> None: ...


def evaluate(config: EvaluateConfig, texts: Sequence[str], find: Find) -> dict[str, Any]:
    """The command: loss and metrics of a finished model, printed and returned. Raises UsageError, DataError, ModelError."""
    config, texts = with_model(config, texts, "evaluate runs/mine")
    if texts:
        raise UsageError(f"evaluate takes no texts, found {texts[0]!r}: give labelled data with --file")
    check_output("--output", config.output, [".json"], inputs=[config.file], model=config.model)
    check_output("--errors", config.errors, [".csv"], inputs=[config.file, config.output], model=config.model, own=MISTAKES)
    check_output("--rows", config.rows, [".json"], inputs=[config.file, config.output], model=config.model, own=ROWS)
    check_adjustment(config)
    check_slices(config)
    changes = changes_in(config)
    if config.file:
        for name in sets_of(config.file, "--file").values():
            check_form(name, "--file", Form.of(config))  # told before the model is loaded
        changes["column_names"] = config.column_names or ""  # a file has a header or not, whatever the run's had
        changes["max_eval_examples"] = config.max_eval_examples or 0
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, changes=changes,
        files=sets_of(config.file, "--file") if config.file else None, precision=config.precision,
    )  # fmt: skip
    task.source.also = slice_columns(config)
    sets = held_out(task.examples())
    if not sets:
        raise DataError(f"the run {config.model} has no evaluation data: give --file")
    adjustments = adjustment_of(config, task, sets)
    reviews = {name: task.review(name) for name in sets} if config.errors else {}
    check_judges(config, reviews)
    for review in reviews.values():
        check_writable(review.columns(), Path(config.errors or ""), config.file or config.model)
    looks: Mapping[str, Look] = reviews or adjustments
    if config.rows:
        rows, looks = row_looks(task, sets, reviews)
        config = one_by_one(config, task)
    result = measured(config, task, model, layout, sets, looks)
    metrics = result.metrics()
    for name, value in metrics.items():
        say(f"  {name:<28} = {figure_text(value)}")
    say_lines(table_of(result.classes))
    if config.output:
        finite = result.finite()
        written = finite.metrics() | ({"classes": finite.classes} if finite.classes else {})
        with writing("--output", Path(config.output)) as stream:
            stream.write(json.dumps(written, indent=2, allow_nan=False) + "\n")
    if config.rows:
        with writing("--rows", Path(config.rows)) as stream:
            stream.write(dumps({name: each.found() for name, each in rows.items()}))
    learned = [each.learned(task.source.config.data_seed) for each in adjustments.values()]
    before = known_before(config)
    for each in learned:
        keep_learned(config, each)
    if config.errors:
        write_mistakes(config, Path(config.errors), reviews)
    write_slices(config, reviews, slices := slices_of(config, reviews, sets))
    keep_findings(config, reviews, slices, learned[0] if learned else None, before)
    return metrics


def one_by_one(config: EvaluateConfig, task: Task[Any]) -> EvaluateConfig:
    """Rows by themselves, whose loss is then known; of a loss that compares rows with each other it is not."""
    return replace(config, eval_batch_size=1) if task.additive else config


def measured(
    config: EvaluateConfig, task: Task[Any], model: nn.Module, layout: Layout, sets: Mapping[str, Examples],
    looks: Mapping[str, Look],
) -> Evaluation:  # fmt: skip
    """The evaluation of all sets; ``looks``: what is shown the outputs of each. Raises ModelError for a model that gives no
    finite numbers."""
    device = next(model.parameters()).device
    engine = TrainConfig(eval_batch_size=config.eval_batch_size, workers=config.workers)
    world, precision = World(device), precision_for(config, device)
    if precision != "fp32":
        note(f"evaluated in {precision}, as in training; predict computes in fp32 (here: --precision fp32)")
    found = {}
    for name, examples in sets.items():
        loader = eval_loader(task, examples, layout, engine, world)
        look = looks[name].update if name in looks else None
        autocast = make_autocast(precision, device)
        found[name] = measure(model, task, batches(loader), autocast, world, split=name, total=len(loader), look=look)
        if not math.isfinite(loss := found[name].figures["loss"] or 0.0):
            raise ModelError(f"model {config.model}: the loss on these data is {loss}: its weights give no finite numbers")
    return Evaluation.of(found)


def write_mistakes(config: EvaluateConfig, path: Path, reviews: Mapping[str, Review]) -> None:
    """errors.csv, and what it says in short; of several sets each row begins with the name of its own."""
    lines: list[list[Any]] = []
    for name, review in reviews.items():
        header, wrong = review.rows()
        before = [name] if len(reviews) > 1 else []
        lines += [[*before, *row] for row in wrong]
        say_lines(f"\n{f'{name}: ' if before else ''}{review.table()}")
    with writing("--errors", path) as stream:
        safe = [[without_formula(cell) for cell in row] for row in lines] if config.excel_safe else lines
        csv.writer(stream).writerows([["set", *header] if len(reviews) > 1 else header, *safe])
    say(f"{len(lines)} wrong rows written to {path}, {review.order}")


def table_of(classes: Mapping[str, Mapping[str, float | None]]) -> str:
    """A line for each class; of very many the first."""
    if not classes:
        return ""
    heads = [head for head in next(iter(classes.values())) if not head.startswith(TAKEN)]  # --errors prints these
    lines = [f"  {'class':<28}" + "".join(f"{head:>11}" for head in heads)]
    for name, figures in islice(classes.items(), MOST_CLASSES):
        lines.append(f"  {shown(name, 27):<28}" + "".join(f"{figure_text(figures.get(head)):>11}" for head in heads))
    if len(classes) > MOST_CLASSES:
        lines.append(f"  ... and {len(classes) - MOST_CLASSES} more: all stand in --output FILE.json")
    return "\n".join(lines)


def precision_for(config: EvaluateConfig, device: torch.device) -> Precision:
    """What is learned for predict is learned in fp32, in which it computes."""
    return "fp32" if config.precision == "auto" and learning(config) else precision_of(config.model, config.precision, device)


def precision_of(model: str, asked: str, device: torch.device) -> Precision:
    """``auto``: that of the run, so that its figures come out again; this device's own where it does not compute in it."""
    with suppress(UsageError):
        if asked == "auto" and (run := run_in(user_path(model))) is not None:
            return choose_precision(run.precision or "auto", device)
    return choose_precision(asked, device)
