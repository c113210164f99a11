"""``python run.py export``: a finished model as ONNX or as a torch.export program, checked on the run's evaluation rows.

Next: exporting/program.py, which writes it; exporting/compare.py, which checks it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from engine import VERSION, atomic
from engine.artifacts.directory import run_in
from engine.commands.flags import ExportConfig, with_model
from engine.console import note, printable, say
from engine.data.places import sets_of
from engine.errors import DataError, ModelError, ResourceError, UsageError
from engine.exporting.compare import Difference, chosen_metric, compare, rows_per_second
from engine.exporting.opened import RECORD, settings_of
from engine.exporting.program import FILES, Called, quantise, require_packages, write
from engine.finished import Find, open_model, task_of
from engine.model.layout import padded
from engine.record.figures import figure_text
from engine.settings.fields import user_path
from engine.task import Examples, Task, held_out

CLOSE = 1e-4  # probabilities of the model and of the exported one


def export(config: ExportConfig, texts: Sequence[str], find: Find) -> None:
    """The command. Raises UsageError, DataError, ModelError, ResourceError, and then leaves nothing."""
    config, texts = with_model(config, texts, "export runs/mine --output exported")
    if texts:
        raise UsageError(f"export takes no texts, found {texts[0]!r}")
    if config.int8 and config.format != "onnx":
        raise UsageError(f"--int8 is for --format onnx, found --format {config.format}")
    output = user_path(config.output)
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output} is there already: name a folder that is not, or delete it")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no such directory as {output.parent}")
    named = refuse_others(config, find)
    require_packages(config.format)
    task, model, layout = open_model(
        config.model, find, device="cpu", task=config.task, changes={"max_eval_examples": config.max_eval_examples},
        files=sets_of(config.file, "--file") if config.file else None,
    )  # fmt: skip
    sets = held_out(task.examples())
    if not sets:
        raise DataError(f"the run {config.model} has no evaluation data, on which what is exported is checked: give --file")
    split, examples = next(iter(sets.items()))
    stock: Any = task.load_model(task.source.model(task.hub_model, task.substitute)).eval()
    plain = padded(stock, task.level)
    if plain.padding_matters:
        raise ModelError(
            f"padding changes what {type(stock).__name__} computes, so what an exported one says of a text would depend on the "
            "longest beside it: it is not exported"
        )
    try:
        with atomic.new_folder(output) as folder:
            program = write(config.format, stock, example_of(task, examples, plain), task.exported, folder)
            if config.int8:
                program = quantise(folder, program)
            metric = chosen_metric(task, split, metric_of(config))
            found = compare(task, model, layout, program, plain, examples, split, metric)
            judge(config, found)
            speeds = rows_per_second(task, [(model, layout), (program, plain)], examples)
            task.save_exported(stock, folder)
            record = record_of(config, program, found, speeds, left=plain.pads_left(getattr(task, "tokenizer", None)))
            # For serve --format onnx.
            record |= {"shortest": plain.shortest, "task": named and Path(named).name, "settings": settings_of(task)}
            atomic.write(folder / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ResourceError(f"--output {output} cannot be written: {error.strerror or error}; nothing is left there") from error
    say(f"speed: {speeds[1]:,.0f} rows a second, the model itself {speeds[0]:,.0f} ({torch.get_num_threads()} threads)")
    size = sum(path.stat().st_size for path in output.glob(f"{FILES[config.format]}*"))
    say(f"{FILES[config.format]} ({size / 1e6:,.1f} MB) with its tokenizer written to {printable(str(output))}")


def refuse_others(config: ExportConfig, find: Find) -> str | None:
    """The name of the task. Raises UsageError for a model of one that exports none, before it is read."""
    named = task_of(user_path(config.model), config.task)
    if not find(named).exported:
        raise UsageError(
            f"--task {named}: models of this task are not exported; those of {', '.join(config.tasks)} are, and those of tasks "
            "of your own that are made from these"
        )
    return named


def metric_of(config: ExportConfig) -> str | None:
    """The metric by which the run's best model was chosen, if it says."""
    run = run_in(user_path(config.model))
    named = None if run is None else run.settings.get("best_metric")
    return named if isinstance(named, str) else None


def example_of(task: Task[Any], examples: Examples, layout: Any) -> Mapping[str, Any]:
    """Two rows, of which neither need be as long as the other, for the graph to be drawn from; there may be one row alone."""
    order = sorted(range(len(examples)), key=lambda row: int(examples.lengths[row]))
    rows = [order[len(order) // 2], order[len(order) // 4]]
    return task.collate([examples[row] for row in rows], layout).inputs


def judge(config: ExportConfig, found: Difference) -> None:
    """Say what was compared. Raises ModelError where it is not what was asked for."""
    error = "" if found.standard_error is None else f" ± {found.standard_error:.4f}"
    say(f"checked on {found.num_rows:,} rows: probabilities differ by at most {found.largest:.2g} ({printable(found.where)})")
    say(f"{found.metric}: {figure_text(found.before)}, exported {figure_text(found.after)}: worse by {found.lost:.4f}{error}")
    if math.isnan(found.largest) or (found.largest > CLOSE and not config.int8):
        raise ModelError(
            f"what was exported is not the model: a probability differs by {found.largest:.2g} in {found.where}, and "
            f"{CLOSE} is the limit; nothing is written"
        )
    if not config.int8:
        return
    if not found.lost <= config.max_loss:  # NaN is not
        raise ModelError(
            f"--int8 makes {found.metric} worse by {found.lost:.4f}{error} ({figure_text(found.before)} to "
            f"{figure_text(found.after)} on {found.num_rows} rows), above --max-loss {config.max_loss}; nothing is written. "
            "Leave out --int8, or allow more"
        )
    if found.standard_error is not None and found.lost + 2 * found.standard_error > config.max_loss:
        note(f"the rows are too few to say that this is below --max-loss {config.max_loss}: with two standard errors it is not")


def record_of(
    config: ExportConfig, program: Called, found: Difference, speeds: Sequence[float], *, left: bool
) -> dict[str, Any]:
    """What export.json says: how it is called, how it was checked, and with what it was made."""
    packages = ("torch", "transformers", *(("onnx", "onnxruntime") if config.format == "onnx" else ()))
    checks = {name: None if isinstance(value, float) and not math.isfinite(value) else value
              for name, value in dataclasses.asdict(found).items() if name != "where"}  # fmt: skip
    return {
        "format": config.format,
        "int8": config.int8,
        "inputs": program.inputs,
        "outputs": program.outputs,
        "padding": "left" if left else "right",
        "checked": checks,
        "rows_per_second": {"exported": round(speeds[1], 1), "model": round(speeds[0], 1), "threads": torch.get_num_threads()},
        "versions": {"plainloop": VERSION} | {name: version(name) for name in packages},
    }
