"""Fresh weights for the last transformer blocks, as "Revisiting Few-sample BERT Fine-tuning" (Zhang et al., 2021) has it:
what they have learned in pretraining is the farthest from the new task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from engine.errors import UsageError


@torch.no_grad()  # transformers' own did so until 5.23
def reinitialise(model: nn.Module, blocks: Sequence[nn.Module], number: int) -> None:
    """Give the last ``number`` of the blocks the weights that a new model of this kind begins with, drawn by torch's seed.

    Raises UsageError for more blocks than there are, or a model that does not say how it begins.
    """
    name, begin = type(model).__name__, getattr(model, "_init_weights", None)  # transformers' own
    if number > len(blocks):
        raise UsageError(f"--reinit-layers {number}: {name} has {len(blocks)} transformer blocks")
    if begin is None:
        raise UsageError(f"--reinit-layers: {name} does not say how its weights begin (no _init_weights)")
    for block in blocks[-number:]:
        for module in block.modules():
            for parameter in module.parameters(recurse=False):
                vars(parameter).pop("_is_hf_initialized", None)  # transformers' mark of what has been loaded, and is to stay
            begin(module)
