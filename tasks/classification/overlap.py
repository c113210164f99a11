"""Evaluation rows that stand in the training data, too: they make the evaluation look better than it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import numpy as np

from engine.console import note
from engine.data.places import UNNAMED
from engine.task import held_out


def warn_of_overlap(rows: Mapping[str, Iterable[Hashable]], what: str) -> None:
    """Says how many of the ``rows`` of each evaluation set are training rows; ``what``: in words, what they are.

    They are compared by their hashes, as they may be more than the memory holds.
    """
    if "train" not in rows:
        return
    hashes = {split: np.fromiter(map(hash, some), dtype=np.int64) for split, some in rows.items()}
    for split, some in held_out(hashes).items():
        if repeated := int(np.isin(some, hashes["train"]).sum()):
            name = "evaluation" if split == UNNAMED else split
            note(f"warning: {repeated} of {len(some)} {name} {what}, too")
