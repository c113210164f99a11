"""The log elsewhere, too: ``--write-to tensorboard,wandb,trackio``. Off by default; metrics.jsonl is always the whole log.

What goes there are the numbers of the log lines and the engine's settings without paths: no data, no texts, no code, no
console. Keys and tokens are each package's own business (``wandb login``); none passes through here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.config import TrainConfig, note
from engine.errors import UsageError

PROJECT = "plainloop"


class Writer(Protocol):
    """Somewhere that numbers go."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run: ``tensorboard --logdir runs``."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1  # what a process that was killed, or a run that is overwritten, has logged from there on is not shown
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        self.writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self.writer.close()  # type: ignore[no-untyped-call]


class WandB:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it here, in ``wandb/`` of the run."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        import wandb

        options = wandb.Settings(console="off", disable_git=True, disable_code=True)
        name = directory.resolve().name
        self.run = wandb.init(project=PROJECT, name=name, dir=str(directory), config=dict(settings), settings=options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, on this machine: ``trackio show``."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int):
        import trackio

        self.trackio, resume = trackio, "allow" if step else "never"
        trackio.init(project=PROJECT, name=directory.resolve().name, config=dict(settings), resume=resume)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        self.trackio.finish()


WRITERS: dict[str, tuple[Callable[[Path, Mapping[str, Any], int], Writer], str]] = {  # and how to get its package
    "tensorboard": (TensorBoard, "pip install -c constraints.txt '.[tensorboard]'"),
    "wandb": (WandB, "pip install -c constraints.txt '.[wandb]'"),
    "trackio": (Trackio, "pip install trackio"),
}


def names_in(write_to: str | None) -> list[str]:
    """The writers that ``--write-to`` names. Raises UsageError for one that does not exist, or whose package is missing."""
    names = list(dict.fromkeys(name.strip() for name in (write_to or "").split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            raise UsageError(f"--write-to {name}: there is no such writer; there are: {', '.join(WRITERS)}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"--write-to {name} needs the package {name}, which is not installed: {WRITERS[name][1]}"
            ) from error
    return names


class Writers:
    """Those of a run, opened. One that fails is left out from then on: it is not worth the run."""

    def __init__(self, config: TrainConfig, directory: Path, step: int):
        """``step``: done so far. Raises UsageError with what a package says that cannot begin."""
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("output_dir", "task")}
        self.open: dict[str, Writer] = {}
        for name in names_in(config.write_to):
            try:
                self.open[name] = WRITERS[name][0](directory, settings, step)
            except Exception as error:  # of any kind: each package has its own
                self.close()
                raise UsageError(f"--write-to {name}: {type(error).__name__}: {error}") from error

    def log(self, line: Mapping[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl: ``train/loss``, ``eval/accuracy``, ``seconds/forward`` ..."""
        if self.open:
            values = numbers_of(line)
            self._each(lambda writer: writer.log(line["step"], values))

    def close(self) -> None:
        self._each(lambda writer: writer.close())
        self.open = {}

    def _each(self, do: Callable[[Writer], None]) -> None:
        for name, writer in list(self.open.items()):
            try:
                do(writer)
            except Exception as error:
                note(f"warning: {name} takes no more: {type(error).__name__}: {error}; metrics.jsonl goes on")
                del self.open[name]


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Flat, by kind; a truth is no number."""
    found = {f"{line['kind']}/{name}": value for name, value in line.items() if name != "step"}
    found |= {f"seconds/{phase}": value for phase, value in line.get("seconds", {}).items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
