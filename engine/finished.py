"""A finished model opened: which task it belongs to, and what of its directory may be trusted.

A run's directory says in run.json which task and options made it, so neither has to be given again, but for a task of
one's own: a file of Python is run only when the user names it. Any other model directory or Hub name is taken as well; its
task is then --task, or the one that ``find`` has for None. Next: commands/, which use it.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from torch import nn

from engine.artifacts.directory import run_in
from engine.data.collate import Layout
from engine.data.sources import Source, SourceConfig
from engine.distributed.device import choose_device
from engine.errors import ModelError, UsageError
from engine.model import key_value_cache, target_logits
from engine.model.layout import pack, padded, why_not_packed
from engine.precision import choose_precision
from engine.settings.fields import settings_where, user_path
from engine.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


Find = Callable[[str | None], type[Task[Any]]]  # the task of that name; of None: of a model that does not say which


def open_model(
    name: str,
    find: Find,
    *,
    device: str = "auto",
    task: str | None = None,
    base: str | Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
    tables: Mapping[str, Dataset] | None = None,
    files: Mapping[str, str | None] | None = None,
    folder: Path | None = None,
    precision: str = "fp32",
) -> tuple[Task[Any], nn.Module, Layout]:
    """The task, its model in eval mode on ``device``, and the layout for its batches. ``find`` gives a task class by name,
    and one for None, the task of a model that does not say which.

    ``task`` is what the user has named; without it run.json's counts, where it is one of ours. ``base``: the task of ours
    that it must be, or be made from; or several, of which it may be any, and is the first unless user or run.json say it.
    ``changes`` are settings to use in place of the run's own (None: keep), ``tables`` data to use in place of its data, or
    ``files`` with them, by split; ``folder`` that of the inputs. Settings that are local to a machine are never taken from
    run.json: they say what the user allows. Raises UsageError, ModelError.
    """
    directory = user_path(name)
    run = run_in(directory)
    if run is not None and run.status != "finished":
        raise UsageError(f"{directory} holds an unfinished run: finish it with --resume")
    settings = dict(run.settings) if run is not None else {}
    bases = (base,) if isinstance(base, str) else tuple(base or ())
    trained = settings.get("task")
    named = task or (ours(directory, trained) if not bases else trained if trained in bases else bases[0])
    if named is None or not is_same(named, settings.get("task", named)):  # the run's rows are of another kind
        settings = {}
    kind = find(named)
    refuse_unknown(changes or {}, kind, named)
    local = settings_where(lambda traits: traits.local, SourceConfig, kind.Options)
    settings = {key: value for key, value in settings.items() if key not in local}
    settings |= {key: value for key, value in (changes or {}).items() if value is not None}
    if bases and not any(issubclass(kind, find(each)) for each in bases):  # the first that it is: extras differ
        raise UsageError(
            f"--task {named or kind.__name__}: this command needs {' or '.join(bases)}, or a task that is made from it"
        )
    source = dataclasses.replace(
        filled(SourceConfig, settings, directory), model=name, revision=None, tokenizer=None, add_tokens=None
    )
    built: Task[Any] = kind(filled(kind.Options, settings, directory), Source(source, tables, files, folder, directory))
    built.source.started_from = settings.get("model")
    where = choose_device(device)
    model = built.load_model(built.source.model(built.hub_model, built.substitute))
    packable = why_not_packed(model, built.level, where, choose_precision(precision, where)) is None
    layout = pack(model, built.level) if packable else padded(model, built.level)
    target_logits.enable(model, built.level)
    key_value_cache.keep_for_generate(model)
    built.adopt(model)
    return built, model.to(where).eval(), layout


def refuse_unknown(changes: Mapping[str, Any], kind: type[Task[Any]], named: str | None) -> None:
    """Raises UsageError for a setting that was given and that this task does not have: it would change nothing."""
    known = {field.name for each in (SourceConfig, kind.Options) for field in dataclasses.fields(each)}
    for name, value in changes.items():
        if value is not None and value is not False and name not in known:
            raise UsageError(
                f"--{name.replace('_', '-')} is no setting of --task {named or kind.__name__}, which this model is of: "
                "leave it out"
            )


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
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kinds := get_args(kind):
        return any(fits(value, each) for each in kinds)
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def task_of(directory: Path, asked: str | None) -> str | None:
    """The name of a model's task: the one ``asked`` for, else that in its run.json; None: neither says.

    Raises UsageError, ModelError.
    """
    run = run_in(directory)
    return asked or ours(directory, None if run is None else run.settings.get("task"))


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
