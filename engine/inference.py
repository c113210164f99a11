"""Using a finished model: predict texts or a file, evaluate on its own or other data.

A run's directory says in run.json which task and options made it, so neither has to be given again, but for a task of
one's own: a file of Python is run only when the user names it. Any other model directory or Hub name is taken as well; its
task is then --task, or classification.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args, get_type_hints

import torch
from torch import nn

from engine import targets
from engine.batching import pack, why_not_packed
from engine.collate import PADDED, Layout
from engine.compare import record_of
from engine.compare import write as draw
from engine.config import TrainConfig, settings_where, user_path
from engine.data import batches, eval_loader
from engine.directory import is_finished, read_run
from engine.errors import DataError, ModelError, ResourceError, UsageError, is_main_process, printable, shown
from engine.evaluate import evaluate as measure
from engine.files import Rows, choose, read_table
from engine.flags import EvaluateConfig, PredictConfig
from engine.parallel import World, choose_device
from engine.precision import Precision, choose_precision, make_autocast
from engine.report import ERRORS
from engine.sources import Source, SourceConfig, as_dataset
from engine.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

Find = Callable[[str], type[Task[Any]]]


def open_model(
    name: str,
    find: Find,
    *,
    device: str = "auto",
    task: str | None = None,
    base: str | None = None,
    changes: Mapping[str, Any] | None = None,
    tables: Mapping[str, Dataset] | None = None,
    precision: str = "fp32",
) -> tuple[Task[Any], nn.Module, Layout]:
    """The task, its model in eval mode on ``device``, and the layout for its batches. ``find`` gives a task class by name.

    ``task`` is what the user has named; without it run.json's counts, where it is one of ours. ``base``: the task of ours
    that it must be, or be made from. ``changes`` are settings to use in place of the run's own (None: keep), ``tables`` data
    to use in place of its data. Raises UsageError, ModelError.
    """
    directory = user_path(name)
    if (directory / "run.json").exists() and not is_finished(directory):
        raise UsageError(f"{directory} holds an unfinished run: finish it with --resume")
    settings = dict(read_run(directory).settings) if (directory / "run.json").exists() else {}
    named = task or ours(directory, settings.get("task")) or "classification"
    if not is_same(named, settings.get("task", named)):  # the run's rows are of another kind
        settings = {}
    settings |= {key: value for key, value in (changes or {}).items() if value is not None}
    kind = find(named)
    if base is not None and not issubclass(kind, find(base)):
        raise UsageError(f"--task {named}: this command needs {base}, or a task that is made from it")
    source = dataclasses.replace(filled(SourceConfig, settings, directory), model=name, revision=None)
    built: Task[Any] = kind(filled(kind.Options, settings, directory), Source(source, tables))
    where = choose_device(device)
    model = built.load_model(built.source.model(built.hub_model))
    packable = why_not_packed(model, built.level, where, choose_precision(precision, where)) is None
    layout = pack(model, built.level) if packable else PADDED
    targets.enable(model, built.level)
    built.adopt(model)
    return built, model.to(where).eval(), layout


def filled(kind: type[Any], settings: Mapping[str, Any], directory: Path) -> Any:
    """A dataclass from those settings that are its fields. Raises ModelError for a value of another kind than its own."""
    types = get_type_hints(kind)
    given = {field.name: settings[field.name] for field in dataclasses.fields(kind) if field.name in settings}
    for name, value in given.items():
        if not fits(value, types[name]):
            raise ModelError(f"{directory / 'run.json'} is damaged: {name} cannot be {value!r}")
    return kind(**given)


def fits(value: Any, kind: Any) -> bool:
    """Is the value of this type, of one in this union, or among the choices of this Literal?"""
    kinds = get_args(kind) or (kind,)
    return (
        value in kinds
        or isinstance(value, tuple(k for k in kinds if isinstance(k, type)))
        or (float in kinds and isinstance(value, int))
    )


def changes_in(config: PredictConfig | EvaluateConfig) -> dict[str, Any]:
    """What a command says in place of the run's own settings; None: nothing."""
    return {name: getattr(config, name) for name in settings_where(lambda traits: traits.replaces_run, type(config))}


def ours(directory: Path, task: Any) -> str | None:
    """The task that run.json names, if it names one by a name of ours. Raises ModelError for a file of Python.

    Wherever that file lies: a directory that was fetched can hold links, and its run.json any path.
    """
    if not isinstance(task, str | None):
        raise ModelError(f"{directory / 'run.json'} is damaged: task cannot be {task!r}")
    if task and ":" in task:
        raise ModelError(
            f"{directory / 'run.json'} names a task in a file of Python, and anybody may have written that: such a file is "
            f"never run unless you name it. If it is your own, add: --task {shlex.quote(task)}"
        )
    return task


def is_same(named: str, task: Any) -> bool:
    """Is this the run's task? ``FILE.py:CLASS`` may be reached by another path now than it was in training."""
    return isinstance(task, str) and Path(named).name == Path(task).name


def predict(config: PredictConfig, texts: Sequence[str], find: Find) -> None:
    """The command: texts given as arguments, or a file. Prints, or writes ``--output``."""
    if bool(texts) == bool(config.input):
        raise UsageError("give either texts to predict, or --input FILE")
    if config.output and Path(config.output).suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"--output must end in .csv or .jsonl, found {config.output!r}")
    if config.input and config.output and Path(config.input).resolve() == Path(config.output).resolve():
        raise UsageError(f"--output {config.output} is the input: name another file")
    check_output(config.output)
    rows: Rows = {"text": list(texts)}
    if config.input:
        rows = read_table(Path(config.input), delimiter=config.delimiter, encoding=config.encoding)
        for column in filter(None, (config.text_column, config.text_pair_column, config.id_column)):
            choose(Path(config.input), list(rows), [column])
        refuse_repeated(rows.get(config.id_column or "id", []), config.input)
    elif named := config.text_column or config.text_pair_column or config.id_column:
        raise UsageError(f"a column, {named!r}, can only be named with --input FILE")
    task, model, layout = open_model(config.model, find, device=config.device, task=config.task, changes=changes_in(config))
    inputs = task.inputs_of(rows) if config.input else list(texts)
    predictions = list(task.predict(model, inputs, layout))
    if config.output:
        write_predictions(Path(config.output), rows, predictions, config.excel_safe)
        print(f"{len(predictions)} predictions written to {printable(config.output)}")
    else:
        for text, prediction in zip(inputs, predictions, strict=True):
            print(f"{printable(task.describe(prediction))}\t{shown(text)}")


def check_output(name: str | None) -> None:
    """Raises UsageError for a file that cannot be made: better now than when the work is done."""
    if name is not None and not Path(name).parent.is_dir():
        raise UsageError(f"--output {name}: there is no such directory")
    if name is not None and Path(name).is_dir():
        raise UsageError(f"--output {name} is a directory: name a file")


def refuse_repeated(ids: Sequence[Any], name: str) -> None:
    """Two predictions of one id could not be told apart. Raises DataError."""
    first: dict[str, int] = {}
    for row, value in enumerate(ids, start=1):
        if (before := first.setdefault(str(value), row)) != row:
            raise DataError(
                f"{name} row {row}: id {str(value)!r} stands in row {before}, too. "
                "Give each row its own, or name another column with --id-column"
            )


def try_examples(task: Task[Any], directory: Path, find: Find, device: str, name: str) -> None:
    """What a tutorial does last: load what was saved, and predict a few inputs. ``name``: the task's, as the user gave it."""
    if not task.try_it or not is_main_process():
        return
    saved, model, layout = open_model(str(directory), find, device=device, task=name)
    for text, prediction in zip(task.try_it, saved.predict(model, task.try_it, layout), strict=True):
        print(f"{printable(saved.describe(prediction))}\t{shown(text)}")


def write_predictions(path: Path, rows: Rows, predictions: Sequence[Mapping[str, Any]], excel_safe: bool = False) -> None:
    """The input's columns as they were, and the prediction's beside them (a CSV gets one column per probability).

    ``excel_safe`` changes cells that a spreadsheet would compute (CSV injection, OWASP): a quote before them makes them text.
    """
    names = list(rows)

    def cell(value: Any) -> Any:
        is_formula = excel_safe and isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if is_formula else value

    def beside(key: str) -> str:
        """A name that the input has not; it may be the output of an earlier call."""
        while key in rows:
            key = f"predicted_{key}"
        return key

    def fields(prediction: Mapping[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in prediction.items():
            if isinstance(value, Mapping) and path.suffix.lower() == ".csv":
                flat |= {beside(f"probability_{name}"): p for name, p in value.items()}
            elif isinstance(value, list) and path.suffix.lower() == ".csv":
                flat[beside(f"predicted_{key}")] = "|".join(map(str, value))
            else:
                flat[beside(f"predicted_{key}" if key in ("label", "value") else key)] = value
        return flat

    def lines() -> Iterable[dict[str, Any]]:
        for i, prediction in enumerate(predictions):
            yield {name: rows[name][i] for name in names} | fields(prediction)

    def write(stream: TextIO) -> None:
        if path.suffix.lower() == ".jsonl":
            stream.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines())
        else:
            writer = csv.writer(stream)
            columns = [*dict.fromkeys([*names, *fields(predictions[0])])]
            writer.writerow([cell(name) for name in columns])
            writer.writerows([cell(line[name]) for name in columns] for line in lines())

    write_whole(path, "--output", write)


def write_whole(path: Path, flag: str, write: Callable[[TextIO], None]) -> None:
    """An older file stays until the new one is whole. Raises ResourceError."""
    beside_it = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside_it, "w", encoding="utf-8", newline="") as stream:
            write(stream)
        os.replace(beside_it, path)
    except OSError as error:
        raise ResourceError(f"{flag} {path} cannot be written: {error.strerror}") from error


def evaluate(config: EvaluateConfig, texts: Sequence[str], find: Find) -> dict[str, Any]:
    """The command: loss and metrics of a finished model, printed and returned. Raises UsageError, DataError, ModelError."""
    if texts:
        raise UsageError(f"evaluate takes no texts, found {texts[0]!r}: give labelled data with --file")
    check_output(config.output)
    if config.errors and (Path(config.errors).suffix.lower() != ".csv" or not Path(config.errors).parent.is_dir()):
        raise UsageError(f"--errors must name a .csv file in a directory that is there, found {config.errors!r}")
    changes = changes_in(config)
    tables = None
    if config.file:
        rows = read_table(Path(config.file), delimiter=config.delimiter, encoding=config.encoding)
        tables = {"eval": as_dataset(rows, config.file)}
        changes["max_eval_examples"] = config.max_eval_examples or 0
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, changes=changes, tables=tables, precision=config.precision
    )
    examples = task.examples().get("eval")
    if examples is None:
        raise DataError(f"the run {config.model} has no evaluation data: give --file")
    device = next(model.parameters()).device
    engine = TrainConfig(eval_batch_size=config.eval_batch_size, workers=config.workers)
    world = World(device)
    loader = eval_loader(task, examples, layout, engine, world)
    autocast = make_autocast(precision_for(config, device), device)
    review = task.review() if config.errors else None
    look = review.update if review else None
    result = measure(model, task, batches(loader), autocast, world, total=len(loader), look=look)
    if result.finite().figures["loss"] is None:
        loss = result.figures["loss"]
        raise ModelError(f"model {config.model}: the loss on these data is {loss}: its weights give no finite numbers")
    metrics = result.metrics()
    for name, value in metrics.items():
        print(f"  {name:<28} = {value:.4f}" if isinstance(value, float) else f"  {name:<28} = {value}")
    if config.output:
        Path(config.output).write_text(
            json.dumps(result.finite().metrics(), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    if review and config.errors:
        header, wrong = review.rows()
        write_whole(Path(config.errors), "--errors", lambda stream: csv.writer(stream).writerows([header, *wrong]))
        print(f"\n{review.table()}\n{len(wrong)} wrong rows written to {config.errors}, the surest first")
        directory = user_path(config.model)
        if Path(config.errors).resolve() == (directory / ERRORS).resolve() and (directory / "run.json").exists():
            draw(directory / "report.html", [record_of(directory)])
    return metrics


def precision_for(config: EvaluateConfig, device: torch.device) -> Precision:
    """``auto``: that of the run, so that its figures come out again; this device's own where it does not compute in it."""
    directory = user_path(config.model)
    if config.precision == "auto" and (directory / "run.json").exists():
        with suppress(UsageError):
            return choose_precision(read_run(directory).precision or "auto", device)
    return choose_precision(config.precision, device)


def quiet_libraries() -> None:
    """No bars and reports of the libraries between our own lines; their errors still come as exceptions."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
