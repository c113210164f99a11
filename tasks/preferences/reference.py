"""What the reference of DPO thinks of each answer: computed once over all rows, before training, and kept beside their tokens.

No second model is in memory then, and a resumed run has the same numbers. Computed in float32, padded, on the GPU if there is
one; kept in the cache folder under all that they depend on. Next: dpo.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.console import progress_bar
from engine.data.batch import Batch
from engine.data.cache import entry
from engine.data.collate import Layout
from engine.data.plan import eval_batches
from engine.data.tokens import TokenDataset
from engine.task import Row

ROWS = 8  # at a time
RIGHT = Layout(sides=("right",))
Collate = Callable[[Sequence[Row], Layout], Batch]


class Referenced(TokenDataset):
    """Rows with a ``reference`` for each token: the log-probability of its label. [sum of lengths] float32, 0 where none is.

    Before ``refer`` there is none. It is no part of the ``fingerprint``: it follows from the rows and the model.
    """

    reference: np.ndarray | None = None

    def __getitem__(self, row: int) -> Row:
        if self.reference is None:
            return super().__getitem__(row)
        return super().__getitem__(row) | {"reference": self.reference[self.tokens.offsets[row] : self.tokens.offsets[row + 1]]}


def refer(part: Referenced, model: nn.Module, collate: Collate, name: str) -> None:
    """Let the rows know what the model thinks of them. ``name``: what they are called."""

    def write(folder: Path) -> None:
        np.save(folder / "reference.npy", log_probabilities(part, model, collate, name))

    folder = entry("references", key(model, part), write)
    if folder is None:
        part.reference = log_probabilities(part, model, collate, name)
    else:
        part.reference = np.load(folder / "reference.npy", mmap_mode="r")


def log_probabilities(part: TokenDataset, model: nn.Module, collate: Collate, name: str) -> np.ndarray:
    """[sum of lengths] float32: of each label, in eval mode."""
    found, offsets = np.zeros(len(part.tokens.ids), np.float32), part.tokens.offsets
    was_training, home, device = model.training, next(model.parameters()).device, computed_on()
    model.eval().to(device)
    groups = list(eval_batches(part.lengths, ROWS))
    with torch.inference_mode():
        for keys in progress_bar(groups, desc=f"reference, {name}", unit="batch", leave=False, hidden=len(groups) <= 50):
            rows = [row for _, row in keys]
            batch = collate([part[row] for row in rows], RIGHT).to(device)
            index = batch.inputs.pop("target_index")
            logits = model(**batch.inputs).logits.flatten(0, 1)[index]
            places = [offsets[row] + np.flatnonzero(part[row]["labels"] != -100) for row in rows]
            found[np.concatenate(places)] = of_labels(logits, batch.targets["labels"]).cpu().numpy()
    model.to(home).train(was_training)
    return found


def computed_on() -> torch.device:
    """This rank's GPU, if it has one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] float32: the log-probability of each label, of logits [N, V]; 0 where it is -100."""
    return -F.cross_entropy(logits.float(), labels, reduction="none")


def key(model: nn.Module, part: TokenDataset) -> str:
    """Of all that the numbers depend on."""
    config: Any = model.config
    how = [part.fingerprint(), config.to_json_string(use_diff=False), computed_on().type, torch.__version__, str(ROWS)]
    digest = hashlib.blake2b("\0".join(how).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
