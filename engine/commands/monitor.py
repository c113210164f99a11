"""``python run.py monitor``: are new rows like those that a model was trained and evaluated on? One verdict, in one line.

Next: findings/gather.py, what is looked at of the rows; findings/drift.py, how it is compared; watched.py, the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import VERSION
from engine.artifacts.directory import run_in
from engine.commands.evaluate import precision_of
from engine.commands.flags import MonitorConfig, changes_in, with_model
from engine.commands.output import writing
from engine.commands.watched import draw, summary, table
from engine.config import TrainConfig
from engine.console import note, printable, progress_bar, say, say_lines
from engine.data.files import pieces_named
from engine.data.form import Form
from engine.data.places import UNNAMED, named_files
from engine.distributed.world import World
from engine.errors import DriftError, ModelError, UsageError
from engine.findings.drift import Feature, compare, require_scipy, rule, verdict
from engine.findings.gather import made
from engine.findings.input_log import head_of, read_log
from engine.findings.profile import COUNTED, SAMPLE, Profile, Vocabulary
from engine.findings.profile import read as read_profile
from engine.finished import Find, open_model, task_of
from engine.loader import batches, eval_loader
from engine.model.projected import projected
from engine.precision import make_autocast
from engine.record.evaluate import evaluate as measure
from engine.record.figures import Evaluation, by_set, figure_text, figures_in_metrics
from engine.record.seen import Answered
from engine.settings.fields import user_path
from engine.task import Task

if TYPE_CHECKING:
    from torch import nn

    from engine.data.collate import Layout

FEW = 100  # rows, below which hardly anything can be shown
RECORD, PAGE = "monitor.json", "report.html"
REFERENCE = "compare with a file of rows that it was not trained on: --reference FILE"


class Watched(NamedTuple):
    """Rows of a file. ``figures``: the model's on them; {}: they have no labels."""

    profile: Profile
    number: int
    figures: dict[str, float | None]


def monitor(config: MonitorConfig, texts: Sequence[str], find: Find) -> None:
    """The command. Raises UsageError, DataError, ModelError; DriftError with ``--fail-on-drift``."""
    config, texts = with_model(config, texts, "monitor runs/mine --input new.csv")
    if texts:
        raise UsageError(f"monitor takes no texts, found {texts[0]!r}: give a file with --input")
    if "-" in (config.input, config.reference):
        raise UsageError("monitor reads its rows more than once, and standard input comes once: name a file")
    require_scipy()
    folder = checked_folder(config.output)
    refuse_unwatched(config.model, config.task, find, config.tasks)
    where, figures = f"the profile of {config.model}", figures_of_run(config)
    task = None
    if (logs := logs_given(config)) is not None:
        before, now = of_logs(config, *logs)
    else:
        task, before, now, figures = of_rows(config, find, figures)
    if config.reference:
        where = names_in(config.reference)
    features = compare(before, now.profile, config.alpha, config.least_effect)
    say(f"{now.number:,} rows of {names_in(config.input)}, compared with {where}")
    if now.number < FEW:
        note(f"{now.number} rows can show hardly anything but the largest changes")
    say_lines(table(features, before, now.profile))
    for name, value in now.figures.items():
        beside = f" (before: {figure_text(figures[name])})" if name in figures else ""
        say(f"  {name:<20} {figure_text(value)}{beside}")
    line = verdict(features, config.alpha, config.least_effect)
    say(line)
    if folder is not None:
        write(config, folder, task, features, before, now, figures, where)
    if config.fail_on_drift and any(each.is_drift for each in features):
        raise DriftError(line)


def of_rows(config: MonitorConfig, find: Find, figures: dict[str, Any]) -> tuple[Any, Profile, Watched, dict[str, Any]]:
    """The task, what rows are compared with, the rows of a file, and the figures before."""
    before = None if config.reference else known_profile(config.model)
    changes = changes_in(config) | {"column_names": config.column_names or "", "max_eval_examples": 0}
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, changes=changes, files={UNNAMED: config.input},
        precision=config.precision,
    )  # fmt: skip
    if before is None:
        assert config.reference is not None
        old = rows_of(config, task, model, layout, config.reference, most=SAMPLE)
        before, figures = old.profile, old.figures
    return task, before, rows_of(config, task, model, layout, config.input, most=COUNTED, vocabulary=before.vocabulary), figures


def of_logs(config: MonitorConfig, now: Path, reference: Path | None) -> tuple[Profile, Watched]:
    """What a server has logged (findings/input_log.py), and the run's profile or an older log. No model is needed.

    Raises UsageError, DataError.
    """
    own = known_profile(config.model)
    before = own if reference is None else read_log(reference, own.weights or "", most=SAMPLE)[0]
    return before, Watched(*read_log(now, own.weights or ""), {})


def logs_given(config: MonitorConfig) -> tuple[Path, Path | None] | None:
    """The logs of a server among ``--input`` and ``--reference``; None: these are files of rows.

    Raises UsageError where one is a log and the other is not, or a setting is given that says how rows are read.
    """
    found = [user_path(name) if name and is_log(user_path(name)) else None for name in (config.input, config.reference)]
    if found == [None, None]:
        return None
    if found[0] is None or (config.reference and found[1] is None):
        raise UsageError(
            "a log of serve --profile-log holds no rows: it is compared with the run, or by --reference with another log"
        )
    if given := [name for name, value in changes_in(config).items() if value is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a file of rows, and --input is a server's log: leave it out")
    return found[0], found[1]


def is_log(path: Path) -> bool:
    try:
        return path.is_file() and head_of(path) is not None
    except (OSError, ValueError):
        return False


def refuse_unwatched(model: str, task: str | None, find: Find, tasks: Sequence[str]) -> None:
    """Raises UsageError for a model of a task that is not watched, before it is read. ``tasks``: those that are, by name."""
    named = task_of(user_path(model), task)
    if not find(named).watched:
        raise UsageError(
            f"--task {named}: data of this task are not watched; those of {', '.join(tasks)} are, and those of tasks of "
            "your own that are made from these"
        )


def known_profile(model: str, way: str = REFERENCE) -> Profile:
    """That which training has left. Raises UsageError without one, with another ``way``."""
    directory = user_path(model)
    run = run_in(directory)
    if run is None:
        raise UsageError(f"{model} is no run, and so has no profile of its data: {way}")
    found = read_profile(directory, run.files)
    if found is None:
        raise UsageError(
            f"{model} has no profile of its data, as an older version, or another program, has made its model: {way}"
        )
    return found


def checked_folder(name: str | None) -> Path | None:
    """Where ``--output`` goes. Raises UsageError for a folder that holds something else."""
    if name is None:
        return None
    folder = user_path(name)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--output {folder} is no folder: name another")
    if not folder.parent.is_dir():
        raise UsageError(f"--output {folder}: there is no such directory as {folder.parent}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise UsageError(f"--output {folder} is not empty, and holds nothing of monitor: name another")
    return folder


def rows_of(
    config: MonitorConfig, task: Task[Any], model: nn.Module, layout: Layout, name: str, *, most: int,
    vocabulary: Vocabulary | None = None,
) -> Watched:  # fmt: skip
    """The rows of a file, read as in training, and what the model answers to them. Raises DataError, ModelError."""
    import torch

    columns = next(pieces_named(name, "the rows", Form.of(config)))
    task.source.files = {UNNAMED: name}
    is_labelled = config.labels == "auto" and task.label_columns_in([*columns])
    examples = (task.examples() if is_labelled else task.unlabelled())[UNNAMED]
    device = next(model.parameters()).device
    world, precision = World(device), precision_of(config.model, config.precision, device)
    loader = eval_loader(
        task, examples, layout, TrainConfig(eval_batch_size=config.eval_batch_size, workers=config.workers), world
    )
    autocast, watch, found = make_autocast(precision, device), task.watch(UNNAMED), None
    answered = Answered(watch)
    with projected(model):
        if is_labelled:
            found = measure(
                model, task, batches(loader), autocast, world, split=UNNAMED, total=len(loader), look=answered.update
            )
        else:
            with torch.inference_mode(), autocast():
                for batch in progress_bar(batches(loader), desc="predicting", total=len(loader), leave=False, unit="batch"):
                    moved = batch.to(device)
                    answered.update(task.forward(model, moved), moved)
    answers = answered.answers()
    if not all(map(math.isfinite, answers.numbers)):
        raise ModelError(f"model {config.model}: its weights give no finite numbers on these rows")
    profile = made(watch, [answers], [printable(name)] * 2, most=most, vocabulary=vocabulary)
    return Watched(profile, len(watch), {} if found is None else figures_of(found))


def figures_of(found: Evaluation) -> dict[str, float | None]:
    return dict(found.finite().figures)


def figures_of_run(config: MonitorConfig) -> dict[str, Any]:
    """Those of its evaluation data, of several sets of the first; {}: there are none."""
    run = run_in(user_path(config.model))
    sets = by_set(figures_in_metrics((run and run.metrics) or {}))
    return next(iter(sets.values()), {})


def names_in(text: str) -> str:
    """The last names of files: pages may be shown to others."""
    return printable(", ".join(file.name for file in named_files(text)) or text)


def write(
    config: MonitorConfig, folder: Path, task: Task[Any] | None, features: Sequence[Feature], before: Profile, now: Watched,
    figures: dict[str, Any], where: str,
) -> None:  # fmt: skip
    """monitor.json and report.html. Raises ResourceError."""
    folder.mkdir(exist_ok=True)
    line = verdict(features, config.alpha, config.least_effect)
    record = {
        "format": 1,
        "version": VERSION,
        "model": config.model,
        "input": names_in(config.input),
        "compared_with": where,
        "rows": now.number,
        "drift": any(each.is_drift for each in features),
        "verdict": line,
        "rule": rule(config.alpha, config.least_effect, len(features)),
        "features": [summary(each, before, now.profile) for each in features],
        "figures": {"now": now.figures, "before": {name: figures.get(name) for name in now.figures}},
    }
    with writing("--output", folder / RECORD) as stream:
        stream.write(json.dumps(record, indent=1, allow_nan=False) + "\n")
    title = f"{names_in(config.input)} against {where}"
    page = draw(title, line, record, features, before, now.profile, getattr(task, "tokenizer", None))
    with writing("--output", folder / PAGE) as stream:
        stream.write(page)
    say(f"{folder / PAGE}: open it in a browser")
