"""What a sweep measures of its runs: the figure that chooses, its rows, and the best setting on rows that chose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.artifacts.describe import run_document, settings_of, sources_of
from engine.artifacts.directory import claim, finished_before, is_finished, read_run
from engine.build import best_metric
from engine.checks import check_data
from engine.commands.evaluate import measured, one_by_one
from engine.commands.flags import EvaluateConfig
from engine.commands.rows import row_looks
from engine.config import TrainConfig
from engine.console import kept_notes
from engine.data.places import UNNAMED
from engine.data.sources import Source
from engine.errors import DataError, UsageError
from engine.findings import rows as row_files
from engine.findings.rows import RowFigures
from engine.finished import Find, open_model
from engine.record.figures import Evaluation, figure_names
from engine.settings.parser import parse
from engine.sweep.choice import Figure, Ran
from engine.sweep.plan import PARTS, Plan, Repeat, Setting
from engine.task import held_out

LEAST_ROWS = 2  # of each part of the evaluation rows


def figure_of(plan: Plan, find: Find) -> Figure:
    """What chooses, of the data as they stand; they are read before anything trains. Raises DataError, UsageError."""
    config, source, options = plan.base
    task = find(plan.task)(options, Source(source))
    examples = task.examples()
    check_data(task, config, examples, 1)
    sets = held_out(examples)
    if not sets:
        why = (
            "chooses on the training rows, and reports on rows that chose nothing" if plan.config.folds else "compares settings"
        )
        raise DataError(
            f"a sweep {why}, and there are no evaluation data: give --eval-file, or hold some out with --eval-fraction 0.2"
        )
    for split, part in sets.items():
        if len(part) < PARTS * LEAST_ROWS:
            raise DataError(
                f"the evaluation set {split!r} has {len(part)} rows, half of which report: {PARTS * LEAST_ROWS} are needed"
            )
    measured_on = [UNNAMED] if plan.config.folds else [*sets]
    if plan.config.folds and len(sets) > 1:
        raise UsageError("--folds evaluates on parts of the training rows, and reports on one evaluation set: name one")
    name = best_metric(task, config, measured_on)  # type: ignore[arg-type]
    split = name.rpartition("/")[0] or measured_on[0]
    metrics = task.metrics(split if split in sets else next(iter(sets)))
    plain = name.rpartition("/")[2]
    if plan.config.folds and name not in figure_names(["loss", *metrics.names], measured_on):
        raise UsageError(f"--best-metric {name} is not computed with --folds; there are: loss, {', '.join(metrics.names)}")
    lower = plain in ("loss", *metrics.lower_is_better)
    return Figure(name, split, lower)


def is_done(plan: Plan, setting: Setting, repeat: Repeat, find: Find) -> bool:
    """Is the run finished, as training would find it: with these settings, these data, this model? Raises UsageError, DataError
    where it is another run."""
    directory = plan.place(setting, repeat)
    if not is_finished(directory):
        return False
    config, source, options = parse(plan.flags(setting, repeat), "run.py sweep", plan.kinds, plan.defaults)
    with kept_notes():
        task = find(plan.task)(options, Source(source))
        settings = settings_of(task, config)
        claim(directory, config, settings, plan.kinds)
        document = run_document(settings, task, task.examples(), sources_of(task))
    return finished_before(directory, config, document) is not None


def of_run(directory: Path, plan: Plan, figure: Figure, find: Find) -> Ran | str:
    """A finished run; or why it has no figure. Its rows are measured if they have not been yet."""
    document = read_run(directory)
    value = (document.metrics or {}).get(f"eval_{figure.name}")
    if value is None:
        return f"{figure.name} is undefined"
    sets = row_files.read(directory)
    if not sets:
        _, sets = measure(directory, plan, find, {})
        row_files.write(directory / row_files.NAME, sets)
    return Ran(float(value), float((document.metrics or {}).get("wall_seconds") or 0.0), sets.get(figure.split))


def on_other_rows(directory: Path, plan: Plan, figure: Figure, find: Find) -> Ran:
    """A run's model on the evaluation rows that had no part in choosing: the second half, or, with folds, all. Raises DataError
    where they have no such figure."""
    changes = {"fold": "", "eval_part": "" if plan.config.folds else f"{PARTS}/{PARTS}"}
    evaluation, sets = measure(directory, plan, find, changes)
    split = figure.split if figure.split in sets else next(iter(sets))
    names = (figure.name, f"{split}/{figure.name}")  # of a named set, where the folds have none
    value = next((found for name in names if (found := evaluation.finite().figures.get(name)) is not None), None)
    if value is None:
        raise DataError(f"{figure.name} is undefined on the rows that chose nothing: give more evaluation rows")
    return Ran(value, evaluation.seconds, sets[split])


def measure(directory: Path, plan: Plan, find: Find, changes: Mapping[str, Any]) -> tuple[Evaluation, dict[str, RowFigures]]:
    """The figures of a finished run, and of each row. ``changes``: which rows."""
    engine: TrainConfig = plan.base[0]
    config = EvaluateConfig(
        model=str(directory), device=engine.device, eval_batch_size=engine.eval_batch_size, workers=engine.workers
    )
    with kept_notes():
        task, model, layout = open_model(str(directory), find, device=engine.device, task=plan.task, changes=changes)
        sets = held_out(task.examples())
        looks, shown = row_looks(task, sets, {})
        found = measured(one_by_one(config, task), task, model, layout, sets, shown)
    return found, {split: look.found() for split, look in looks.items()}
