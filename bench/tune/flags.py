"""The settings of ``tune`` beside those of a training. No torch in here: ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from engine.settings.fields import require, setting


@dataclass(frozen=True)
class TuneConfig:
    """Settings of ``tune``, which takes those of a training, too; what is named there is kept as it is."""

    beside_training: ClassVar[bool] = True

    budget_s: float = setting(120.0, "seconds to measure in, about; what there is no time for is named")
    try_compile: bool = setting(False, "try --compile on a CPU, too, which takes minutes; on CUDA it is tried in any case")
    output: str | None = setting(None, "JSON file for all windows, with the machine and the versions")

    def __post_init__(self) -> None:
        require(self, "budget_s", 1 <= self.budget_s <= 86400, "must be 1 to 86400")
