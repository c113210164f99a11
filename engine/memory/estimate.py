"""Memory that training is known to need: weights, gradients, the optimizer's state, and what FSDP2 gathers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from engine.distributed.wrap import blocks
from engine.precision import DTYPES, Precision


def bytes_per_rank(
    model: nn.Module, size: int, precision: Precision, *, states: Mapping[str, int], shard: bool, accumulates: bool
) -> dict[str, int]:
    """What training is known to hold on each rank, activations aside.

    Weights and gradients are float32. ``states``: bytes of what else is held for the trained ones, the optimizer's state above
    all, by name (optimizer.state_bytes). In half precision, autocast keeps a copy of the weights through a step. Of a sharded
    model each rank has a share. On top of that the weights outside of blocks and two blocks (one in use, the next on its way)
    are there in full, and the gradients of one; of all, if they add up over several micro-batches.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    held = {"weights": 4 * (trained + frozen), "gradients": 4 * trained, **states}
    if not shard:
        return held if precision == "fp32" else held | {f"{precision} copies": DTYPES[precision].itemsize * (trained + frozen)}
    of_blocks = [sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    outside = trained + frozen - sum(of_blocks)
    largest = max(of_blocks, default=0)
    width = DTYPES[precision].itemsize
    gradients = 4 * trained if accumulates else width * max(outside, largest)
    return {"shares": sum(held.values()) // size, "gathered": width * (outside + 2 * largest) + gradients}
