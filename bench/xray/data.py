"""How long the rows are, and how much of Trainer's batches is padding: measured on the given data and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Padding:
    """``share`` of the tokens that are computed in an epoch which are padding. ``said``: the finding in a sentence."""

    rows: int
    mean_length: float
    longest: int
    share: float
    said: str


def read_lengths(file: str, columns: Sequence[str], tokenizer: str, max_length: int | None) -> np.ndarray:
    """Tokens of each row, cut to ``max_length`` (None: to what the tokenizer says). Raises DataError, ModelError."""
    import numpy as np
    from transformers import AutoTokenizer

    from engine.console import quiet_libraries
    from engine.data.files import read_table

    table = read_table(Path(file), list(columns))
    quiet_libraries()
    try:
        loaded: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"--tokenizer {tokenizer}: no tokenizer can be read there, and none is cached") from error
    texts = [[str(cell) for cell in table[name]] for name in columns]
    cut = {"truncation": True, "max_length": max_length} if max_length else {"truncation": True}
    return np.array([len(ids) for ids in loaded(*texts, **cut)["input_ids"]])


def measure(lengths: np.ndarray, batch: int, seed: int, *, grouped: int, drop_last: bool, fixed: int | None) -> Padding:
    """Of the first epoch's batches, as Trainer makes them. ``fixed``: every row is padded to so many tokens.

    ``grouped``: rows of a step, if rows are grouped by length; the order is then one of many, so the share is about right.
    """
    import numpy as np

    from engine.data.plan import Plan

    rows = len(lengths)
    if grouped:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        order = np.array(get_length_grouped_indices(lengths.tolist(), grouped, generator=torch.Generator().manual_seed(seed)))
        batches = [order[i : i + batch] for i in range(0, rows, batch)]
    else:
        batches = Plan(rows, batch, seed=seed).batches(0)
    if drop_last:
        batches = [some for some in batches if len(some) == batch]
    real = sum(int(lengths[some].sum()) for some in batches)
    computed = sum(len(some) * (fixed or int(lengths[some].max())) for some in batches)
    share = 1 - real / computed if computed else 0.0
    mean, longest = float(lengths.mean()), int(lengths.max())
    how = f"every row padded to {fixed} tokens" if fixed else f"each batch of {batch} padded to its longest row"
    about = "about " if grouped else ""
    said = (
        f"{about}{share:.1%} of the computed tokens of an epoch are padding ({how}; "
        f"rows of {mean:.1f} tokens, longest {longest})"
    )
    return Padding(rows, mean, longest, share, said)
