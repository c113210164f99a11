"""Which runs a sweep is made of: each setting with each seed, or fold, and the ordinary command line of each."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.installed import program
from engine.settings.fields import as_json, settings_where, user_path
from engine.settings.parser import apart, given_names, parse, task_named
from engine.sweep.flags import MOST_SETTINGS, OF_ONE_RUN, SweepConfig, check_grid, check_together, read_grid

LONGEST_NAME = 120  # of a directory
PARTS = 2  # of the evaluation rows: the first chooses, the second reports


@dataclass(frozen=True)
class Repeat:
    """One of the runs of each setting. ``fold``: from 1; None: all training rows are trained on."""

    seed: int
    fold: int | None = None


@dataclass(frozen=True)
class Setting:
    """Values of the grid, by name, as texts that the parser reads; {} is the training as it stands on the command line."""

    values: Mapping[str, str]

    @property
    def name(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.values.items()) or "as given"


@dataclass(frozen=True)
class Plan:
    """``argv``: a training's flags that all runs share; ``grid``: by name, the values that the parser has read."""

    config: SweepConfig
    directory: Path
    task: str
    argv: Sequence[str]
    kinds: Sequence[type]
    defaults: Mapping[str, Any]
    grid: Mapping[str, Sequence[str]]
    base: Sequence[Any]  # the dataclasses of the training as it stands on the command line

    @classmethod
    def of(cls, config: SweepConfig, argv: Sequence[str], find: Callable[..., Any]) -> Plan:
        """Raises UsageError for what any of the runs would be refused for, as far as its flags say."""
        check_together(config)
        if (task := task_named(argv)) is None:
            raise UsageError(f"--task says what to learn: {program()} sweep --task NAME --grid learning_rate=1e-5,3e-5")
        kind = find(task)
        kinds, defaults = [TrainConfig, SourceConfig, kind.Options], kind.defaults
        for name in OF_ONE_RUN:
            if name in given_names(argv):
                raise UsageError(f"--{name.replace('_', '-')} is of one run, and a sweep makes several: leave it out")
        base = parse(argv, "run.py sweep", kinds, defaults)
        if base[0].output_dir is None:
            raise UsageError("--output-dir names the directory of the sweep: --output-dir sweeps/first")
        grid = read_grid(config.grid)
        check_grid(grid, kinds, task, [*given_names(argv)], config.seeds)
        _, shared = apart(argv, {"output_dir", "seed", "resume"}, bare={"resume"})
        plan = cls(config, user_path(base[0].output_dir), task, shared, kinds, defaults, grid, base)
        return dataclasses.replace(plan, grid={name: plan.read_values(name, values) for name, values in grid.items()})

    def read_values(self, name: str, values: Sequence[str]) -> list[str]:
        """As the parser reads them, each beside the first value of all others. Raises UsageError."""
        found: list[str] = []
        for value in values:
            text = str(self.value_of(name, value))
            if text in found:
                raise UsageError(f"--grid {name}: {value} is given twice: leave one of them out")
            found.append(text)
        return found

    def value_of(self, name: str, value: str) -> Any:
        """Raises UsageError."""
        setting = Setting({other: values[0] for other, values in self.grid.items()} | {name: value})
        return next(getattr(part, name) for part in self.parsed(setting, f"--grid {setting.name}") if hasattr(part, name))

    def parsed(self, setting: Setting, where: str) -> list[Any]:
        """The dataclasses of a run. Raises UsageError that begins with ``where``."""
        try:
            return parse(self.flags(setting, self.repeats()[0]), "run.py sweep", self.kinds, self.defaults)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    def settings(self) -> list[Setting]:
        """All of the grid, each of which the parser takes. Raises UsageError."""
        number = 1
        for values in self.grid.values():
            number *= len(values)
        if number > MOST_SETTINGS:
            raise UsageError(f"--grid makes {number} settings, and at most {MOST_SETTINGS} are tried: --optuna 50 draws some")
        found = [Setting(dict(zip(self.grid, values, strict=True))) for values in product(*self.grid.values())]
        for each in found:
            self.parsed(each, f"--grid {each.name}")
        return found

    def repeats(self) -> list[Repeat]:
        first, number = self.base[0].seed, self.config.seeds
        if first + number > 2**32:
            raise UsageError(f"--seed {first}: {number} seeds from there on leave the range below 2**32")
        folds = range(1, self.config.folds + 1) if self.config.folds else (None,)
        return [Repeat(seed, fold) for seed in range(first, first + number) for fold in folds]

    def flags(self, setting: Setting, repeat: Repeat) -> list[str]:
        """A training's command line, behind ``run.py``."""
        part = f"--fold={repeat.fold}/{self.config.folds}" if repeat.fold else f"--eval-part=1/{PARTS}"
        values = [f"--{name.replace('_', '-')}={value}" for name, value in setting.values.items()]
        return [*self.argv, *values, f"--seed={repeat.seed}", part, f"--output-dir={self.place(setting, repeat)}", "--resume"]

    def place(self, setting: Setting, repeat: Repeat) -> Path:
        """The directory of a run."""
        return self.directory / "runs" / self.name(setting, repeat)

    def name(self, setting: Setting, repeat: Repeat) -> str:
        """``learning_rate=1e-05,seed=42``, as a directory can be called."""
        before = f"{setting.name}," if setting.values else ""
        plain = re.sub(r"[^\w.+,=-]", "-", before)
        if plain != before or len(plain) > LONGEST_NAME:  # two settings must not meet there
            plain = f"{plain[:LONGEST_NAME]}~{sha256(before.encode()).hexdigest()[:8]},"
        return f"{plain}seed={repeat.seed}" + (f",fold={repeat.fold}" if repeat.fold else "")

    def asked(self) -> dict[str, Any]:
        """What the sweep was asked for, but for what is local to this start: another must not go on with its directory."""
        local = [*settings_where(lambda traits: traits.local, *self.kinds)]
        settings = as_json({name: value for part in self.base for name, value in dataclasses.asdict(part).items()})
        own = {"grid": {name: list(values) for name, values in self.grid.items()}, "seeds": self.config.seeds,
               "folds": self.config.folds, "optuna": self.config.optuna, "stop_losers": self.config.stop_losers}  # fmt: skip
        return {name: value for name, value in settings.items() if name not in local} | own

    def command(self) -> str:
        """That makes this sweep again."""
        grid = [part for name, values in self.grid.items() for part in ("--grid", f"{name}={','.join(values)}")]
        own = {name: getattr(self.config, name) for name in ("seeds", "folds", "optuna", "stop_losers")}
        own |= {"seed": self.base[0].seed, "output_dir": self.directory}
        flags = [
            part for name, value in own.items() if value is not None for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        return program() + " " + shlex.join(["sweep", *grid, *flags, *self.argv])
