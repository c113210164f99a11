"""A step as a GPU is told to make it, on tensors without contents: every operation is counted, and none is computed.

The tensors are fake ones on the CPU (autograd on fake CUDA tensors ends the process where torch is built without CUDA). What
the engine does otherwise on a CPU is put back: attention is the flash kernel's operator, dropout is nn.Dropout, and clipping
goes over all gradients at once. Autocast keeps the CPU's table of types, which is nearly CUDA's.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.build import build
from engine.config import TrainConfig
from engine.loop import train_step
from engine.model import attention, layout, packing

READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"}  # .item(), .tolist(), bool() ...
NO_KERNEL = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh"}
TWO_KERNELS = {"select_backward", "slice_backward"}  # zeros of the whole tensor, and a copy


class Launches(TorchDispatchMode):
    """``counts``: how many kernels each operation starts. Raises AssertionError where the host reads from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in READS, f"the host waits for the device: {name}"
        if func.namespace == "aten" and not func.is_view and name not in NO_KERNEL:
            self.counts[name] += 2 if name in TWO_KERNELS else 1
        return func(*args, **kwargs or {})


def as_on_a_gpu(patch: Any) -> None:
    """On a CPU the engine goes the ways that it goes on CUDA."""
    patch.setattr(attention, "_on_cpu", attention._flash)
    patch.setattr(packing, "use_fast_dropout", lambda model: None)
    patch.setattr("torch.nn.utils.clip_grad._has_foreach_support", lambda *arguments: True)
    patch.setattr(layout, "why_not_packed", lambda *arguments: None)  # the proof compares numbers, and there are none
    patch.setattr(nn.Module, "to", lambda module, *arguments: module)  # fake parameters cannot be swapped


def launches(task: Any, rows: Any, model: nn.Module, accumulation: int) -> Counter[str]:
    """Of a packed step in bf16: the second of a run, as the first one makes the optimizer's state. After ``as_on_a_gpu``."""
    config = TrainConfig(
        batch_size=4, accumulation_steps=accumulation, epochs=1, device="cpu", precision="bf16", batching="packed"
    )
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        model = copy.deepcopy(model)
    with fake:
        setup = build(task, rows, config, model)
    setup.state.model.train()
    for _, (_, micro_batches) in zip(range(2), setup.data.steps(), strict=False):
        moved = [batch._map(fake.from_tensor) for batch in micro_batches]
        with fake, Launches() as step:
            train_step(setup.state, task, moved, config, setup.world)
    return step.counts
