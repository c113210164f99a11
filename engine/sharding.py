"""A model spread over the ranks (``--shard``): torch's fully_shard on each transformer block, then on the rest.

Each rank holds a share of every weight, its gradient and its optimizer state in float32; a block's weights are gathered, in
the precision that is computed in, just before they are used, and let go after. What is saved is whole, and a plain model.
Next: build.py, which decides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UsageError
from engine.parallel import World, whole
from engine.precision import DTYPES, Precision


def shard(model: nn.Module, world: World, precision: Precision) -> nn.Module:
    """Spread the model, on the CPU so far, over the ranks, in place. Raises UsageError without torchrun."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise UsageError("--shard spreads the model over several processes: start with torchrun --nproc-per-node N run.py ...")
    low = None if precision == "fp32" else DTYPES[precision]
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.size,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32),
    }
    for block in blocks(model):
        fully_shard(block, **settings)
    fully_shard(model, **settings)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks: the members of each outermost nn.ModuleList."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():  # outer ones come first
        if isinstance(module, nn.ModuleList) and module not in inside:
            found += module
            inside |= {*module.modules()}
    return found


def collect(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """All of them in full on rank 0, sharded ones one at a time into the CPU's memory; {} on the others. Collective."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if world.is_main:
            found[name] = full.cpu() if hasattr(tensor, "full_tensor") else tensor
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Is it spread over the ranks?"""
    return hasattr(tensor, "full_tensor")


def own_rows(tensor: Tensor, world: World) -> tuple[Tensor, int]:
    """This rank's rows of a sharded tensor (none, perhaps), and the number of the first.

    fully_shard cuts dimension 0 as torch.chunk does: each rank gets as many rows, rounded up, until there are no more.
    """
    from torch.distributed.tensor import Shard

    sharded: Any = tensor.detach()
    assert sharded.placements == (Shard(0),) and sharded.device_mesh.size() == world.size, sharded.placements
    local: Tensor = sharded.to_local()
    each = -(-len(tensor) // world.size)
    first = min(world.rank * each, len(tensor))
    assert len(local) == min(each, len(tensor) - first), "it is cut in another way"
    return local, first


def local_rows(tensors: Mapping[str, Tensor], world: World) -> tuple[dict[str, Tensor], dict[str, int]]:
    """What this rank saves of them: its rows of the sharded ones, and rank 0 all others in full; where each begins."""
    found, first_rows = {}, {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            local, first = own_rows(tensor, world)
            if len(local):
                found[name], first_rows[name] = local, first
        elif world.is_main:
            found[name], first_rows[name] = tensor, 0
    return found, first_rows


@torch.no_grad()
def put(own: Tensor, saved: Tensor | None, world: World) -> None:
    """Rank 0's ``saved`` into ``own`` on all ranks, which each have all of it. Collective."""
    import torch.distributed as dist

    if saved is not None:
        own.copy_(saved)
    if world.size > 1:
        dist.broadcast(own, 0)


def skeleton(model: nn.Module) -> nn.Module:
    """A copy without weights, taken before the model is sharded or patched."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)  # type: ignore[arg-type]


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The skeleton with these weights and buffers; what is tied stays tied."""
    filled = {id(p): nn.Parameter(tensors[name], p.requires_grad) for name, p in model.named_parameters()}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = filled[id(parameter)]
    for name, buffer in model.named_buffers():
        if name in tensors:
            buffer.copy_(tensors[name])
    return model


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
