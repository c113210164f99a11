"""The settings of ``sweep`` beside those of a training, and its grid. No torch in here: ``--help`` answers at once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.errors import UsageError
from engine.settings.fields import require, setting, settings_where

OF_ONE_RUN = ("save_config", "explain", "profile", "push_to_hub", "overwrite", "max_minutes", "fold", "eval_part")
OF_THE_ROWS = (  # evaluated, which must be the same for all settings
    "data", "data_config", "data_revision", "data_seed", "eval_split", "eval_file", "eval_fraction", "eval_part", "fold",
    "group_column", "contains", "max_eval_examples", "delimiter", "encoding", "quoting", "column_names",
)  # fmt: skip
MOST_SETTINGS = 1000


@dataclass(frozen=True)
class SweepConfig:
    """Settings of ``sweep``, which takes those of a training, too."""

    beside_training: ClassVar[bool] = True

    grid: str | None = setting(None, "NAME=VALUE,VALUE,...: values of a training's setting to try; give several", several=True)
    seeds: int = setting(3, "runs of each setting, with --seed (default: 42), and the seeds that follow it")
    folds: int | None = setting(
        None, "cross-validation: each run trains on all but one of so many parts of the training data, and is evaluated on it"
    )
    optuna: int | None = setting(
        None, "draw so many settings (optuna): of two numbers of a --grid from the range between them, of more one of them"
    )
    stop_losers: float | None = setting(
        None, "no further seed for a setting whose mean is worse than the best one's by so many paired standard errors"
    )
    num_runs_at_once: int = setting(1, "runs at the same time; they share this machine")

    def __post_init__(self) -> None:
        require(self, "seeds", 1 <= self.seeds <= 100, "must be 1 to 100")
        require(self, "folds", self.folds is None or 2 <= self.folds <= 100, "must be 2 to 100")
        require(self, "optuna", self.optuna is None or 1 <= self.optuna <= MOST_SETTINGS, f"must be 1 to {MOST_SETTINGS}")
        require(self, "num_runs_at_once", 1 <= self.num_runs_at_once <= 100, "must be 1 to 100")
        losers = self.stop_losers
        require(self, "stop_losers", losers is None or 0 < losers < math.inf, "must be a positive number of standard errors")


def check_together(config: SweepConfig) -> None:
    """Raises UsageError for flags that do not go together."""
    if config.stop_losers is not None and config.seeds * (config.folds or 1) < 3:
        raise UsageError("--stop-losers looks at a setting after two runs: give --seeds 3 or more")
    if config.stop_losers is not None and config.optuna is not None:
        raise UsageError("--stop-losers compares the settings of a grid seed by seed, and --optuna draws them one by one")
    if config.grid is None and (config.optuna is not None or config.folds is None):
        raise UsageError("--grid says what to choose among: --grid learning_rate=1e-5,3e-5")


def read_grid(text: str | None) -> dict[str, list[str]]:
    """The values of each setting, as they were typed. Raises UsageError."""
    found: dict[str, list[str]] = {}
    name = ""
    for piece in text.split(",") if text else ():
        start = re.fullmatch(r"\s*-*([A-Za-z][\w-]*)\s*=(.*)", piece, re.DOTALL)
        value = (start[2] if start else piece).strip()
        if start is not None:
            name = start[1].replace("-", "_")
            if name in found:
                raise UsageError(f"--grid {name} is given twice: name all its values in one")
            found[name] = []
        if not name or not value:
            raise UsageError(f"--grid is NAME=VALUE,VALUE,..., found {text!r}")
        if value in found[name]:
            raise UsageError(f"--grid {name}: {value} is given twice: leave one of them out")
        found[name].append(value)
    return found


def check_grid(grid: dict[str, list[str]], kinds: Sequence[type], task: str, given: Sequence[str], num_seeds: int) -> None:
    """Raises UsageError for a setting that is none, or cannot be chosen among. ``kinds``: the dataclasses of a training;
    ``given``: the names of settings on the command line."""
    known = [name for kind in kinds for name in settings_where(lambda _: True, kind)]
    idle = [name for kind in kinds for name in settings_where(lambda traits: not traits.changes_weights, kind)]
    for name in grid:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"--grid {name}: --task {task} has no such setting" + (f" (did you mean {near[0]}?)" if near else "")
            )
        if name in ("task", "seed"):
            way = "a sweep is of one task" if name == "task" else f"seeds are nothing to choose: --seeds {max(num_seeds, 3)}"
            raise UsageError(f"--grid {name}: {way}")
        if name in OF_THE_ROWS:
            raise UsageError(f"--grid {name} changes which rows are evaluated, on which settings could not be compared")
        if name in idle:
            raise UsageError(f"--grid {name} changes no model: there is nothing to choose")
        if name in given:
            raise UsageError(f"--grid {name} and --{name.replace('_', '-')} say the same setting: leave one of them out")
