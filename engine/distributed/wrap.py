"""The model as training calls it with several ranks: DistributedDataParallel around it, or with ``--shard`` FSDP2.

fully_shard is applied to each transformer block, then to the rest: each rank holds a share of every weight, its gradient and
its optimizer state in float32; a block's weights are gathered, in the precision that is computed in, just before they are
used, and let go after. What is saved is a plain model. With one rank everything here is the identity.
Next: build.py, which decides.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.distributed.world import World
from engine.errors import UsageError
from engine.installed import under_torchrun
from engine.precision import DTYPES, Precision


def shard(model: nn.Module, world: World, precision: Precision) -> nn.Module:
    """Spread the model, on the CPU so far, over the ranks, in place. Raises UsageError without torchrun."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        start = f"torchrun --nproc-per-node N {under_torchrun()} ..."
        raise UsageError(f"--shard spreads the model over several processes: start with {start}")
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
    """All tensors in full on rank 0, sharded ones one at a time into the CPU's memory; {} on the others. Collective."""
    found = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
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
def load_full(own: Tensor, saved: Tensor | None, world: World) -> None:
    """Rank 0's ``saved`` into ``own`` on all ranks, which each have all of it. Collective."""

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


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that is spread over the ranks put together, for which all have to ask; any other as it is."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def release(model: nn.Module) -> None:
    """A sharded model keeps what a forward pass has gathered for the backward pass: none follows, so let it go."""
    if hasattr(model, "reshard"):  # fully_shard has added it
        model.reshard()  # type: ignore[operator]


@contextmanager
def gradient_sync(model: nn.Module, *, last: bool) -> Iterator[None]:
    """The ranks exchange gradients in the backward pass of the ``last`` micro-batch of a step only."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if last else model.no_sync():
            yield
        if last:
            exchanged(model)
    else:
        if hasattr(model, "set_requires_gradient_sync"):  # fully_shard has added it
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield


def exchanged(model: DistributedDataParallel) -> None:
    """Raises UsageError if a parameter got no gradient: those that wait for it have not been exchanged."""
    try:
        model._check_reducer_finalized()
    except RuntimeError as error:
        raise UsageError(
            "a step gave some parameters no gradient, and the ranks wait for them: give --find-unused-parameters, which "
            "looks for them in each step"
        ) from error


def replicate(model: nn.Module, world: World, *, find_unused_parameters: bool) -> nn.Module:
    """The model as training calls it: DistributedDataParallel around it, or with one rank the model itself."""
    if world.size == 1:
        return model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its new name came with torch 2.13
        replica = DistributedDataParallel(
            model,
            device_ids=[world.device.index] if world.device.type == "cuda" else None,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,  # no second copy of the gradients
            broadcast_buffers=False,  # transformers' are constants
        )
    # Attributes die in their order, and the group has to die last and from Python, which then lets go of the GIL. The reducer
    # would hold it while it waits for the group's threads, of which one may be waiting for it: a run that never ends.
    vars(replica)["group, after the reducer"] = replica.process_group
    return replica
