"""What a rank holds of a model in training, weighed: weights, gradients, AdamW's averages; copied to all or shared out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from bench.contest.pictures import COLOURS
from bench.contest.workload import random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from bench.lessons.ranks import in_ranks
from engine.distributed.world import World
from engine.distributed.wrap import replicate, shard

RANKS = 8
PARTS = ("weights", "gradients", "AdamW's averages")


def weigh(tensors: Iterable[Tensor | None]) -> int:
    """Bytes held here for these tensors; memory that several share counts once, and of a sharded one this rank's part."""
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors if tensor is not None]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in own}.values())


def one_step(model: nn.Module, called: nn.Module, optimizer: Any) -> list[int]:
    """Bytes of weights, gradients and AdamW's averages behind one step; ``called``: the model as training calls it."""
    buckets: list[Tensor] = []  # in which DDP exchanges gradients, and which it keeps; the gradients lie in them or beside them

    def exchange(bucket: Any) -> Any:
        buckets.append(bucket.buffer())
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    if isinstance(called, DistributedDataParallel):
        called.register_comm_hook(None, lambda _, bucket: exchange(bucket))  # whose annotations torch would compare
    rows = toys.features(random_workload(4, 8, 8))
    ids, labels = (torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels"))
    called(input_ids=ids, labels=labels).loss.backward()
    optimizer.step()
    inner = getattr(optimizer, "optim", optimizer)  # of a ZeroRedundancyOptimizer: this rank's part
    averages = (state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq"))
    return [weigh(model.parameters()), weigh([*(p.grad for p in model.parameters()), *buckets]), weigh(averages)]


def settings_of_trainer(folder: str) -> dict[str, Any]:
    """What Trainer tells DDP of the gradients."""
    trainer = toys.make_trainer(toys.bert(), toys.features(random_workload(8, 8, 8)), folder)
    return {"gradient_as_bucket_view": trainer.accelerator.ddp_handler.gradient_as_bucket_view}


def weighed_ways(world: World, folder: str, settings: dict[str, Any]) -> dict[str, list[int]]:
    """Bytes on this rank, for each way; ``settings``: Trainer's for DDP."""
    found: dict[str, list[int]] = {}
    model = toys.bert()
    called: nn.Module = DistributedDataParallel(model, **settings)
    found["Trainer, torchrun (DDP)"] = one_step(model, called, torch.optim.AdamW(model.parameters()))
    model = toys.bert()
    called = replicate(model, world, find_unused_parameters=False)
    found["Plainloop, torchrun (DDP)"] = one_step(model, called, torch.optim.AdamW(model.parameters()))
    model = toys.bert()
    called = DistributedDataParallel(model, gradient_as_bucket_view=True)
    found["AdamW shared out (ZeRO-1)"] = one_step(model, called, ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW))
    model = shard(toys.bert(), world, "fp32")
    found["Plainloop, --shard (FSDP2)"] = one_step(model, model, torch.optim.AdamW(model.parameters()))
    return found


def sharding(folder: str) -> Finding:
    number = sum(p.numel() for p in toys.bert().parameters())
    of_ranks = in_ranks(RANKS, weighed_ways, folder, settings_of_trainer(folder))
    each = {name: [max(found[name][k] for found in of_ranks) / number for k in range(3)] for name in of_ranks[0]}
    theirs, ours, _, sharded = (sum(values) for values in each.values())

    def draw(axes: Any) -> None:
        left = [0.0] * len(each)
        for k, (part, colour) in enumerate(zip(PARTS, (0, 1, 2), strict=True)):
            values = [sizes[k] for sizes in each.values()]
            axes.barh(range(len(each)), values, left=left, color=COLOURS[colour], edgecolor="white", label=part)
            left = [a + b for a, b in zip(left, values, strict=True)]
        for i, total in enumerate(left):
            axes.text(total, i, f" {total:.1f}", va="center")
        axes.set_yticks(range(len(each)), list(each))
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(f"bytes a parameter on each of {RANKS} ranks, in float32 (activations aside)")
        axes.legend(frameon=False, loc="lower right")

    return Finding(
        holds=theirs > 19 and 15.5 < ours < 17 and sharded < 1.2 * 16 / RANKS,
        said=f"{RANKS} ranks with DDP hold {theirs:.0f} bytes a parameter each, gradients twice; sharded {sharded:.1f}",
        table=[["bytes a parameter on each rank", *PARTS, "in all"]]
        + [[name, *(f"{size:.2f}" for size in sizes), f"{sum(sizes):.2f}"] for name, sizes in each.items()],
        draw=draw,
        note="A sharded model gathers the weights of two blocks at a time on top of that; --explain says how much of yours.",
    )


LESSONS = [
    Lesson(
        "sharding", "what each of several GPUs holds: everything, and the gradients twice",
        ("engine/distributed/wrap.py", "gradient_as_bucket_view=True"),
        ("accelerate/utils/dataclasses.py", "gradient_as_bucket_view: bool = False"), sharding,
    ),
]  # fmt: skip
