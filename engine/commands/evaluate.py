"""``python run.py evaluate``: loss and metrics of a finished model, on the run's own evaluation data or a labelled file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from engine.artifacts.directory import read_run
from engine.artifacts.report import MISTAKES
from engine.commands.flags import EvaluateConfig, changes_in, with_model
from engine.commands.output import check_output, check_writable, without_formula, writing
from engine.commands.report import record_of
from engine.commands.report import write as draw
from engine.config import TrainConfig
from engine.console import note, say, say_lines, shown
from engine.data.files import check_form
from engine.data.form import Form
from engine.distributed.world import World
from engine.errors import DataError, ModelError, UsageError
from engine.finished import Find, open_model
from engine.loader import batches, eval_loader
from engine.precision import Precision, choose_precision, make_autocast
from engine.record.evaluate import evaluate as measure
from engine.record.figures import figure_text
from engine.settings.fields import user_path
from engine.task import Review, Task

MOST_CLASSES = 50  # in the table on the terminal


def evaluate(config: EvaluateConfig, texts: Sequence[str], find: Find) -> dict[str, Any]:
    """The command: loss and metrics of a finished model, printed and returned. Raises UsageError, DataError, ModelError."""
    config, texts = with_model(config, texts, "evaluate runs/mine")
    if texts:
        raise UsageError(f"evaluate takes no texts, found {texts[0]!r}: give labelled data with --file")
    check_output("--output", config.output, [".json"], inputs=[config.file], model=config.model)
    check_output("--errors", config.errors, [".csv"], inputs=[config.file, config.output], model=config.model, own=MISTAKES)
    changes = changes_in(config)
    if config.file:
        check_form(config.file, "--file", Form.of(config))  # told before the model is loaded
        changes["column_names"] = config.column_names or ""  # a file has a header or not, whatever the run's had
        changes["max_eval_examples"] = config.max_eval_examples or 0
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, changes=changes,
        files={"eval": config.file} if config.file else None, precision=config.precision,
    )  # fmt: skip
    examples = task.examples().get("eval")
    if examples is None:
        raise DataError(f"the run {config.model} has no evaluation data: give --file")
    device = next(model.parameters()).device
    engine = TrainConfig(eval_batch_size=config.eval_batch_size, workers=config.workers)
    world = World(device)
    loader = eval_loader(task, examples, layout, engine, world)
    precision = precision_for(config, device)
    if precision != "fp32":
        note(f"evaluated in {precision}, as in training; predict computes in fp32 (here: --precision fp32)")
    autocast = make_autocast(precision, device)
    review = reviewing(task, needed=bool(config.errors))
    if review and config.errors:
        check_writable(review.columns(), Path(config.errors), config.file or config.model)
    look = review.update if review else None
    result = measure(model, task, batches(loader), autocast, world, total=len(loader), look=look)
    if result.finite().figures["loss"] is None:
        loss = result.figures["loss"]
        raise ModelError(f"model {config.model}: the loss on these data is {loss}: its weights give no finite numbers")
    metrics = result.metrics()
    for name, value in metrics.items():
        say(f"  {name:<28} = {figure_text(value)}")
    classes = review.classes() if review else {}
    say_lines(table_of(classes))
    if config.output:
        written = result.finite().metrics() | ({"classes": classes} if classes else {})
        with writing("--output", Path(config.output)) as stream:
            stream.write(json.dumps(written, indent=2, allow_nan=False) + "\n")
    if review and config.errors:
        header, wrong = review.rows()
        with writing("--errors", Path(config.errors)) as stream:
            safe = [[without_formula(cell) for cell in row] for row in wrong]
            csv.writer(stream).writerows([header, *(safe if config.excel_safe else wrong)])
        say_lines(f"\n{review.table()}\n{len(wrong)} wrong rows written to {config.errors}, the surest first")
        directory = user_path(config.model)
        if Path(config.errors).resolve() == (directory / MISTAKES).resolve() and (directory / "run.json").exists():
            draw(directory / "report.html", [record_of(directory)])
    return metrics


def reviewing(task: Task[Any], *, needed: bool) -> Review | None:
    """A look at each class, where the task tells right from wrong. Raises UsageError where it does not, and it is needed."""
    try:
        return task.review()
    except UsageError:
        if needed:
            raise
        return None


def table_of(classes: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each class; of very many the first."""
    if not classes:
        return ""
    heads = list(next(iter(classes.values())))
    lines = [f"  {'class':<28}" + "".join(f"{head:>11}" for head in heads)]
    for name, figures in islice(classes.items(), MOST_CLASSES):
        lines.append(f"  {shown(name, 27):<28}" + "".join(f"{figure_text(figure):>11}" for figure in figures.values()))
    if len(classes) > MOST_CLASSES:
        lines.append(f"  ... and {len(classes) - MOST_CLASSES} more: all stand in --output FILE.json")
    return "\n".join(lines)


def precision_for(config: EvaluateConfig, device: torch.device) -> Precision:
    """``auto``: that of the run, so that its figures come out again; this device's own where it does not compute in it."""
    directory = user_path(config.model)
    if config.precision == "auto" and (directory / "run.json").exists():
        with suppress(UsageError):
            return choose_precision(read_run(directory).precision or "auto", device)
    return choose_precision(config.precision, device)
