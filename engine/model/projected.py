"""Where a row stands among others, in a few numbers: the mean of the last layer's vectors over its tokens, on random lines.

A mean of some hundred numbers a row is much to keep and more than a few hundred rows can be tested on; on LINES lines that are
drawn at random two sets of rows can be compared as they are (Lopes, Jacob and Wainwright, "A More Powerful Two-Sample Test in
High Dimensions using Random Projection", NeurIPS 2011). Nothing of the model is changed. Next: findings/drift.py, the test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from engine.model import lora
from engine.model.packing import segment_means

LINES, SEED = 16, 20


@contextmanager
def projected(model: nn.Module) -> Iterator[None]:
    """In here outputs of the model have ``projected``, [B, LINES] float32, where its body gives a vector of each token."""
    handles = attach(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attach(model: nn.Module) -> list[Any]:
    """The hooks, which can be removed; []: of a model that is compiled, or has no body."""
    whole = lora.plain(model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model)
    is_compiled = any(getattr(each, "_compiled_call_impl", None) is not None for each in model.modules())
    if is_compiled or not isinstance(whole, transformers.PreTrainedModel) or (body := whole.base_model) is whole:
        return []
    seen: list[Tensor | None] = [None]  # [B, T, H], or [1, T, H] of a packed batch
    lines: dict[tuple[int, torch.device], Tensor] = {}

    def see(body: nn.Module, args: Any, outputs: Any) -> None:
        vectors = getattr(outputs, "last_hidden_state", None)
        seen[0] = vectors if isinstance(vectors, Tensor) and vectors.dim() == 3 else None

    def project(model: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        vectors, seen[0] = seen[0], None
        if vectors is None:
            return
        place = vectors.shape[-1], vectors.device
        if place not in lines:
            lines[place] = random_lines(place[0]).to(place[1])
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            found = means(vectors.float() @ lines[place], kwargs)
        if found is not None:
            outputs.projected = found

    return [
        body.register_forward_hook(see, prepend=True),  # before that of packing.py, which leaves a vector for each row
        model.register_forward_hook(project, with_kwargs=True),  # as it is called: peft calls no hooks of what it wraps
    ]


def means(low: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
    """[B, LINES]: of each row, from [B, T, LINES], or [1, T, LINES] of a packed batch; None where rows cannot be told apart."""
    if (first := inputs.get("segment_first")) is not None:
        return segment_means(low[0], first, inputs["segment_last"])
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != low.shape[:2]:
        return None
    found: Tensor = (low * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return found


def random_lines(size: int) -> Tensor:
    """[size, LINES] float32, the same for ever: of numpy's generators this one's numbers are promised never to change."""
    drawn = np.random.RandomState(SEED).standard_normal((size, LINES)) / np.sqrt(size)
    return torch.from_numpy(drawn.astype(np.float32))
