"""``python run.py update``: a finished model trained on new rows, too, and kept only if it is not worse on held-out rows.

Next: judge.py, which compares the two; swap.py, which puts one in the place of the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.directory import is_finished, locked, read_run
from engine.commands.flags import UpdateConfig, with_model
from engine.config import TrainConfig
from engine.console import note, say
from engine.data.sources import Source, SourceConfig
from engine.errors import UsageError
from engine.finished import Find, filled, task_of
from engine.fit import fit
from engine.settings.fields import address_in, settings_where, user_path
from engine.task import Task
from engine.updating.judge import compared, keeps, rule
from engine.updating.swap import finish, kept_in, put_in_place, refuse_others, roll_back, trained_in, write_verdict

FRESH = ("epochs", "max_steps", "max_minutes", "reinit_layers")  # of a run's settings, what its update has anew


def update(config: UpdateConfig, texts: Sequence[str], find: Find) -> None:
    """The command. Raises UsageError, DataError, ModelError, ResourceError; the model in use is then as it was."""
    config, texts = with_model(config, texts, "update runs/mine --train-file more.csv")
    if texts:
        raise UsageError(f"update takes no texts, found {texts[0]!r}: give new rows with --train-file")
    if config.rollback and (config.train_file or config.eval_file):
        raise UsageError("--rollback trains nothing: leave out --train-file and --eval-file")
    directory = user_path(config.model)
    directory = directory if directory.name not in ("", "..") else directory.resolve()
    if not is_finished(directory):
        raise UsageError(f"{directory} holds no finished run, and update trains one further")
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link, and update exchanges folders: name the folder itself")
    kind = None if config.rollback else kind_of(config, directory, find)
    with locked(directory):
        finish(directory)
        if kind is None:
            before = roll_back(directory)
            return say(f"rolled back: {directory} holds the model that was in {before}, and the other way round")
        settings = settings_to_go_on(config, directory)
        refuse_others(kept_in(directory))
        task, engine = put_together(config, directory, settings, kind)
        fit(task, engine)
        decide(config, directory, find)


def kind_of(config: UpdateConfig, directory: Path, find: Find) -> type[Task[Any]]:
    """The task of the run. Raises UsageError for one whose models are not updated."""
    named = task_of(directory, config.task)
    kind = find(named)
    if not kind.watched:
        raise UsageError(
            f"--task {named}: models of this task are not updated; those of {', '.join(config.tasks)} are, and those of tasks "
            "of your own that are made from these"
        )
    return kind


def settings_to_go_on(config: UpdateConfig, directory: Path) -> dict[str, Any]:
    """Those of the run. Raises UsageError where it cannot be trained further in this way."""
    document = read_run(directory)
    settings = dict(document.settings)
    if settings.get("lora") and not settings.get("lora_merge"):
        raise UsageError(f"{directory} is an adapter, and its update would lie over itself: train with --lora-merge")
    if settings.get("problem") == "regression":
        raise UsageError(
            f"{directory} predicts numbers, and update compares what is right or wrong: train further with --model"
        )
    if not config.eval_file and not [split for split in document.data.num_examples if split != "train"]:
        raise UsageError(f"the run {directory} has no evaluation data, which have to decide: give --eval-file")
    earlier = settings.get("more_train_file")
    if isinstance(earlier, str) and (address := address_in(earlier)):
        raise UsageError(f"{directory / 'run.json'} names {address}, and anybody may have written that: train with a file")
    return settings


def put_together(
    config: UpdateConfig, directory: Path, settings: Mapping[str, Any], kind: type[Task[Any]]
) -> tuple[Task[Any], TrainConfig]:
    """The run that trains further: the settings of the one before that change weights, and no others of its run.json."""
    own = settings_where(lambda traits: traits.changes_weights, TrainConfig, SourceConfig, kind.Options)
    given = {name: settings[name] for name in own if name in settings and name not in FRESH}
    more = ",".join(filter(None, (settings.get("more_train_file"), config.train_file)))
    given |= {"model": str(directory), "revision": None, "tokenizer": None, "add_tokens": None}
    given |= {"more_train_file": more, "old_rows": config.old_rows}
    source = filled(SourceConfig, given, directory)
    engine = dataclasses.replace(
        filled(TrainConfig, given, directory),
        task=config.task or settings.get("task"),
        epochs=config.epochs,
        learning_rate=config.learning_rate or given.get("learning_rate", TrainConfig.learning_rate),
        device=config.device,
        workers=config.workers,
        output_dir=str(trained_in(directory)),
        resume=not config.overwrite,
        overwrite=config.overwrite,
    )
    return kind(filled(kind.Options, given, directory), Source(source, run=directory)), engine


def decide(config: UpdateConfig, directory: Path, find: Find) -> None:
    """Compare the two models, and put the new one in place if it is not worse."""
    new = trained_in(directory)
    found = compared(config, directory, new, find)
    for each in found:
        say(each.line())
    is_kept = keeps(found, config.margin)
    verdict = {
        "kept": "new" if is_kept else "old",
        "rule": rule(config.margin),
        "margin": config.margin,
        "sets": [dataclasses.asdict(each) | {"interval": each.interval, "p": each.p} for each in found],
    }
    if is_kept:
        put_in_place(directory, verdict)
        say(f"kept: the new model, now in {directory}; the old one is in {kept_in(directory)} (update --rollback)")
        return say(rule(config.margin))
    write_verdict(new, verdict, None)
    say(f"kept: the old model, in {directory}; the new one is left in {new}")
    say(rule(config.margin))
    worst = min(each.interval[0] for each in found)
    note(
        f"the lowest end of an interval is {worst:.4f}: the same command with --margin {-worst + 5e-5:.4f} or more would keep "
        "the new one, without training it again; with more held-out rows (--eval-file) less may be shown to be enough"
    )
