"""What ``evaluate`` leaves in a run beside its figures: a temperature in config.json, findings.json, the report, the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.artifacts.card import weaknesses
from engine.artifacts.directory import is_finished
from engine.artifacts.model_config import change, folder_to_change, set_section
from engine.artifacts.report import MISTAKES
from engine.commands.flags import EvaluateConfig
from engine.commands.report import record_of
from engine.commands.report import write as draw
from engine.console import say, say_lines
from engine.data.places import UNNAMED, named_files
from engine.errors import ResourceError, UsageError, UserError
from engine.findings import document
from engine.findings.document import Findings
from engine.findings.slices import Slice
from engine.settings.fields import user_path
from engine.task import Adjustment, Examples, Judge, Learned, Review, Task

CALIBRATION, WEAKNESSES = "Calibration", "What it gets wrong"  # sections of the card


def check_adjustment(config: EvaluateConfig) -> None:
    """Raises UsageError for a model that cannot be changed: better now than when it has been evaluated."""
    if (flag := learning(config)) is None:
        return
    folder_to_change(config.model, flag)
    for name in ("errors", "rows"):
        if getattr(config, name):
            raise UsageError(f"{flag} changes what --{name} writes: give it first, and then evaluate --{name}")


def learning(config: EvaluateConfig) -> str | None:
    """The flag that asks for something to be learned."""
    return "--calibrate" if config.calibrate else f"--threshold {config.threshold}" if config.threshold else None


def adjustment_of(config: EvaluateConfig, task: Task[Any], sets: Mapping[str, Examples]) -> dict[str, Adjustment]:
    """Of the only evaluation set; {} where nothing is to be learned. Raises UsageError."""
    if (flag := learning(config)) is None:
        return {}
    if len(sets) > 1:
        raise UsageError(f"{flag} learns from one set, and there are {', '.join(sets)}: name one with --file")
    return {name: task.adjustment(name, calibrate=config.calibrate, threshold=config.threshold) for name in sets}


def keep_learned(config: EvaluateConfig, learned: Learned) -> None:
    """Print it, and put it into the model's config.json and card."""
    say_lines("\n" + "\n".join(learned.lines))
    directory = user_path(config.model)
    change(directory, learned.stored)
    if is_finished(directory):
        set_section(directory, CALIBRATION, learned.card)
    say(f"kept in {directory / 'config.json'}: predict and evaluate use it, the library's own pipeline does not")


def known_before(config: EvaluateConfig) -> Findings:
    """What an evaluation before this one has found; nothing where that is not known."""
    with suppress(UserError):
        return document.read(user_path(config.model)) or Findings()
    return Findings()


def keep_findings(
    config: EvaluateConfig, reviews: Mapping[str, Review], slices: Sequence[Slice], learned: Learned | None, before: Findings
) -> None:
    """findings.json and the report of a run, where something was learned, or its errors.csv written. What was learned earlier
    stays; errors of other confidences do not."""
    directory = user_path(config.model)
    is_own = config.errors is not None and Path(config.errors).resolve() == (directory / MISTAKES).resolve()
    if not is_finished(directory) or not (is_own or learned):
        return
    kept = (learned.curves if learned else {}) or before.learned
    try:
        document.write(directory, Findings(about_of(config), curves_of(reviews), kept, slices))
    except OSError as error:
        raise ResourceError(f"{directory / document.NAME} cannot be written: {error.strerror}") from error
    if config.errors:
        set_section(directory, WEAKNESSES, weaknesses(slices, about_of(config)))
    draw(directory / "report.html", [record_of(directory)])


def curves_of(reviews: Mapping[str, Review]) -> dict[str, list[list[float]]]:
    """Of each set, if its review has one."""
    found = {name: review.curve() for name, review in reviews.items() if isinstance(review, Judge)}
    return {"" if [*found] == [UNNAMED] else name: curve for name, curve in found.items() if curve}


def about_of(config: EvaluateConfig) -> str:
    """Which rows were evaluated: of files the last names, since the report may be shown to others."""
    return ", ".join(file.name for file in named_files(config.file)) if config.file else "the run's evaluation data"
