"""The log elsewhere, too: ``--write-to tensorboard,wandb,trackio``, or a writer of one's own, ``--write-to FILE.py:CLASS``.

Off by default; metrics.jsonl is always the whole log. To the packages go the numbers of the log lines and the engine's
settings without paths: no data, no texts, no code, no console. Keys and tokens are each package's own business (``wandb
login``); none passes through here. A writer of one's own is the door for whatever is to happen every so many steps. It sees
lines and directories and not the model, and random numbers that it draws are its own, so a run has the same bits with it
and without. docs/writers.md has an example.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from engine.checked import parse_json
from engine.config import TrainConfig
from engine.console import note, notebook
from engine.errors import UsageError
from engine.installed import install
from engine.record.table import Table
from engine.settings.own import class_in_file, is_own, line_of

PROJECT = "plainloop"
MOMENTS = ("on_log", "on_evaluate", "on_save", "on_end")


class Writer:
    """What a writer may do, each of it optional. One of one's own need not be a subclass, a class with some of these will do.

    It is made with the directory of the run, the engine's settings without paths, and the number of steps done so far: 0, or
    where a resumed run goes on. Rank 0 alone has writers.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        pass

    def on_log(self, step: int, line: Mapping[str, Any]) -> None:
        """A train or epoch line, as metrics.jsonl has it."""

    def on_evaluate(self, step: int, line: Mapping[str, Any]) -> None:
        """An evaluation's line, as metrics.jsonl has it."""

    def on_save(self, step: int, directory: Path) -> None:
        """A checkpoint is on the disk in full; with ``--async-save`` some steps after it was taken."""

    def on_end(self) -> None:
        """Training ends here: it is done, has been stopped, or has met with an error (not when the process is killed)."""

    def state_dict(self) -> Mapping[str, Any]:
        """What a checkpoint keeps of the writer: anything that JSON can hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What ``state_dict`` gave to the checkpoint that a resumed run continues from; called once, before all else."""


class Numbers(Writer):
    """A writer that takes the numbers of every line, by name."""

    def on_log(self, step: int, line: Mapping[str, Any]) -> None:
        self.log(step, numbers_of(line))

    def on_evaluate(self, step: int, line: Mapping[str, Any]) -> None:
        self.log(step, numbers_of(line))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError


class TensorBoard(Numbers):
    """Event files in ``tensorboard/`` of the run: ``tensorboard --logdir runs``."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1  # what a process that was killed, or a run that is overwritten, has logged from there on is not shown
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        self.writer.flush()  # type: ignore[no-untyped-call]

    def on_end(self) -> None:
        self.writer.close()  # type: ignore[no-untyped-call]


class WandB(Numbers):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it here, in ``wandb/`` of the run."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        import wandb

        options = wandb.Settings(console="off", disable_git=True, disable_code=True)
        name = directory.resolve().name
        self.run = wandb.init(project=PROJECT, name=name, dir=str(directory), config=dict(settings), settings=options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def on_end(self) -> None:
        self.run.finish()


class Trackio(Numbers):
    """A run of trackio, on this machine: ``trackio show``."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        import trackio

        self.trackio, resume = trackio, "allow" if step else "never"
        trackio.init(project=PROJECT, name=directory.resolve().name, config=dict(settings), resume=resume)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def on_end(self) -> None:
        self.trackio.finish()


WRITERS: dict[str, Callable[[Path, Mapping[str, Any], int], Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def names_in(write_to: str | None) -> list[str]:
    """The writers that ``--write-to`` names; files are not opened yet.

    Raises UsageError for one that does not exist, or whose package is missing, and for two of the same file name and class.
    """
    names = list(dict.fromkeys(name.strip() for name in (write_to or "").split(",") if name.strip()))
    for name in names:
        if is_own(name):
            if sum(is_own(other) and short(other) == short(name) for other in names) > 1:
                raise UsageError(
                    f"--write-to {write_to}: {short(name)} is there twice, and a checkpoint could not tell them apart"
                )
            continue
        if name not in WRITERS:
            others = f"{', '.join(WRITERS)}, and your own as FILE.py:CLASS"
            raise UsageError(f"--write-to {name}: there is no such writer; there are: {others}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            mend = "pip install trackio" if name == "trackio" else install(name)  # no extra has it
            raise UsageError(f"--write-to {name} needs the package {name}, which is not installed: {mend}") from error
    return names


def short(name: str) -> str:
    """``FILE.py:CLASS`` without folders: what a checkpoint and a warning call a writer."""
    return Path(name).name


def check_own(write_to: str | None) -> None:
    """Import the files of one's own writers. Raises UsageError for what cannot be imported or is no writer."""
    for name in filter(is_own, names_in(write_to)):
        own_class(name)


def own_class(name: str) -> type[Any]:
    """Raises UsageError, also for a method whose name is a slip: it would never be called."""
    kind = class_in_file(name, "write-to")
    if kind is None:
        raise UsageError(f"--write-to {name}: {name.rpartition(':')[0]} defines no class of that name")
    methods = [method for method in dir(kind) if method.startswith("on_")]
    known = f"a writer's methods are {', '.join(MOMENTS)}, state_dict and load_state_dict"
    for method in methods:
        if method not in MOMENTS:
            raise UsageError(f"--write-to {name}: {method} would never be called; {known}")
    if not methods:
        raise UsageError(f"--write-to {name}: the class has nothing to call; {known}")
    if hasattr(kind, "state_dict") != hasattr(kind, "load_state_dict"):
        raise UsageError(f"--write-to {name}: state_dict and load_state_dict come together; {known}")
    return kind


class Writers:
    """The writers of a run, opened. One that fails is left out from then on: it is not worth the run."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        step: int,
        states: Mapping[str, Any] | None = None,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        """``step``: done so far; ``states``: of the checkpoint that the run continues from; ``around``: each call of a writer.

        Raises UsageError with what a writer says that cannot begin.
        """
        beside = ("output_dir", "task", "write_to")
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in beside}
        self.open: dict[str, Any] = {}
        self.around, states = around, dict(states or {})
        if notebook() is not None:
            self.open["the table in the notebook"] = Table()
        for name in names_in(config.write_to):
            try:
                with around():
                    self.open[name] = (own_class(name) if is_own(name) else WRITERS[name])(directory, dict(settings), step)
                    if short(name) in states:
                        self.open[name].load_state_dict(states.pop(short(name)))
            except UsageError:
                self.close()
                raise
            except (Exception, SystemExit) as error:  # of any kind: each writer has its own
                self.open.pop(name, None)
                self.close()
                raise UsageError(f"--write-to {name}: {reason(name, error)}") from error
        for name in states:
            note(f"the checkpoint holds the state of the writer {name}, which --write-to does not name: it is left out")

    @property
    def show_the_log(self) -> bool:
        """Does the reader see the log's lines already?"""
        return any(isinstance(writer, Table) for writer in self.open.values())

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if line["kind"] == "eval":
            self._each(lambda writer: writer.on_evaluate(line["step"], copy.deepcopy(line)), "on_evaluate")
        else:
            self._each(lambda writer: writer.on_log(line["step"], copy.deepcopy(line)), "on_log")

    def saved(self, step: int, directory: Path) -> None:
        """A checkpoint is on the disk."""
        self._each(lambda writer: writer.on_save(step, directory), "on_save")

    def states(self) -> dict[str, Any]:
        """What a checkpoint keeps of those that have a state, by the short name of each."""
        found: dict[str, Any] = {}

        def keep(writer: Any) -> None:
            if state := writer.state_dict():
                name = next(name for name, other in self.open.items() if other is writer)
                kept = parse_json(json.dumps(state, allow_nan=False))
                if kept != state:
                    raise ValueError("state_dict() is not what JSON makes of it: keys have to be texts, sequences lists")
                found[short(name)] = kept

        self._each(keep, "state_dict")
        return found

    def close(self) -> None:
        self._each(lambda writer: writer.on_end(), "on_end")
        self.open = {}

    def _each(self, do: Callable[[Any], None], method: str) -> None:
        for name, writer in list(self.open.items()):
            if not hasattr(writer, method):
                continue
            try:
                with self.around():
                    do(writer)
            except (Exception, SystemExit) as error:
                note(f"warning: {short(name)} takes no more: {reason(name, error)}; metrics.jsonl goes on")
                del self.open[name]


def reason(name: str, error: BaseException) -> str:
    """What has gone wrong in a writer, and for one's own the file and line."""
    place = line_of(error, Path(name.rpartition(":")[0])) if is_own(name) else ""
    return f"{type(error).__name__}: {error}" + (f" ({place})" if place else "")


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by name, flat; a truth is none: ``train/loss``, ``eval/accuracy``, ``seconds/forward`` ..."""
    found = {f"{line['kind']}/{name}": value for name, value in line.items() if name != "step"}
    found |= {f"seconds/{phase}": value for phase, value in line.get("seconds", {}).items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
