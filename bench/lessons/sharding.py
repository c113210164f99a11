"""What a rank holds of a model in training, weighed: weights, gradients, AdamW's averages; copied to all or shared out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from bench.contest.pictures import COLOURS
from bench.contest.workload import random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from engine.distributed.world import World
from engine.distributed.wrap import replicate, shard

RANKS = 8
PARTS = ("weights", "gradients", "AdamW's averages")


@contextmanager
def ranks(backend: str, size: int) -> Iterator[World]:
    """This process as one of several. ``fake``: the others are only counted: sizes are right, and values are not."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    store = FakeStore() if backend == "fake" else torch.distributed.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, rank=0, world_size=size, store=store)
    try:
        world = World(torch.device("cpu"))
        world.size = RANKS  # by which the model is wrapped; nothing is said to the others
        yield world
    finally:
        dist.destroy_process_group()


def weigh(tensors: Iterable[Tensor | None]) -> int:
    """Bytes held here for these tensors; memory that several share counts once, and of a sharded one this rank's part."""
    own = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors if tensor is not None]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in own}.values())


def one_step(model: nn.Module, called: nn.Module, optimizer: Any) -> list[int]:
    """Bytes of weights, gradients and AdamW's averages behind one step; ``called``: the model as training calls it."""
    rows = toys.features(random_workload(4, 8, 8))
    ids, labels = (torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels"))
    called(input_ids=ids, labels=labels).loss.backward()
    optimizer.step()
    inner = getattr(optimizer, "optim", optimizer)  # of a ZeroRedundancyOptimizer: this rank's part
    gradients = weigh(p.grad for p in model.parameters())
    if isinstance(called, DistributedDataParallel) and not all(map(is_view, model.parameters())):
        gradients += sum(bucket.buffer().nbytes for bucket in called.reducer._get_zeros_like_grad_buckets())
    averages = (state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq"))
    return [weigh(model.parameters()), gradients, weigh(averages)]


def is_view(parameter: nn.Parameter) -> bool:
    """Does the gradient lie in a bucket, in which it is exchanged, or is it a copy beside it?"""
    gradient = parameter.grad
    return gradient is not None and gradient.untyped_storage().nbytes() > gradient.nbytes


def settings_of_trainer(folder: str) -> dict[str, Any]:
    """What Trainer tells DDP of the gradients."""
    trainer = toys.make_trainer(toys.bert(), toys.features(random_workload(8, 8, 8)), folder)
    return {"gradient_as_bucket_view": trainer.accelerator.ddp_handler.gradient_as_bucket_view}


def sharding(folder: str) -> Finding:
    found: dict[str, list[int]] = {}
    settings = settings_of_trainer(folder)
    with ranks("gloo", 1) as world:
        model = toys.bert()
        called: nn.Module = DistributedDataParallel(model, **settings)
        found["Trainer, torchrun (DDP)"] = one_step(model, called, torch.optim.AdamW(model.parameters()))
        model = toys.bert()
        called = replicate(model, world, find_unused_parameters=False)
        found["Plainloop, torchrun (DDP)"] = one_step(model, called, torch.optim.AdamW(model.parameters()))
        del called
    with ranks("fake", RANKS) as world:
        model = toys.bert()
        found["AdamW shared out (ZeRO-1)"] = one_step(
            model, model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW)
        )
        model = shard(toys.bert(), world, "fp32")
        found["Plainloop, --shard (FSDP2)"] = one_step(model, model, torch.optim.AdamW(model.parameters()))
    number = sum(p.numel() for p in toys.bert().parameters())
    each = {name: [size / number for size in sizes] for name, sizes in found.items()}
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
