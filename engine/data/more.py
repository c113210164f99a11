"""Rows that are trained on besides: ``--more-train-file``, whose rows come in when the evaluation data have been held out.

So the evaluation data of a run stay the same, to the row, while its training data grow. Next: updating/, which trains so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.data.form import Form
from engine.data.places import parts_of
from engine.data.sources import Source, SourceConfig
from engine.data.tables import read_dataset
from engine.data.taken import TakenData
from engine.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset


def more_rows(source: Source, columns: Sequence[str]) -> Dataset | None:
    """The rows of ``--more-train-file``, which the source's description then names; None without it. Raises DataError."""
    if (name := source.config.more_train_file) is None:
        return None
    parts = parts_of(name, "--more-train-file")
    if any(part.share is not None for part in parts):
        raise UsageError(f"--more-train-file {name}: shares are for --train-file: leave them out")
    table = read_dataset([file for part in parts for file in part.files], columns, Form.of(source.config))
    taken = source.taken_data or TakenData("given in Python")
    source.taken_data = TakenData(f"{taken.description}, and {name} ({len(table)} rows)", hub_name=taken.hub_name)
    return table


def rows_that_stay(config: SourceConfig, number: int, new: int) -> np.ndarray:
    """Which of so many training rows stay beside so many new ones, by ``--old-rows``: [n] from 0, in order."""
    kept = {"all": number, "same": min(number, new), "none": 0}[config.old_rows]
    return np.sort(np.random.default_rng((config.data_seed, 3)).permutation(number)[:kept])
