"""Forward and backward pass recorded as CUDA graphs: one launch in place of hundreds (``--cuda-graph``).

A small model's step is hundreds of kernels of a few microseconds each, and launching one takes the host longer than the
device takes to run it. A graph is recorded for each shape that comes a second time, and replayed from then on: the same
kernels on the same memory, with new inputs copied in, and dropout drawn anew from the same stream of random numbers as
without a graph (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

A recording cannot see what the host decides. So a task whose loss reads a number of the batch, or waits for the device,
is not recorded, with one line that says why. Next: memory/retry.py, which goes around this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from engine.clock import Clock
from engine.console import note
from engine.data.batch import Batch
from engine.seed import get_generators, set_generators
from engine.state import TrainState

Accumulate = Callable[[TrainState, Any, Collection[Batch], Tensor], Tensor]
Shapes = tuple[tuple[str, Any], ...]

COUNTS = {"num_items", "num_examples", "num_tokens", "executed_tokens", "sum_squares", "longest", "keys"}
MOST_GRAPHS = 128  # shapes beyond these stay eager
MOST_SEEN = 4096  # shapes that are remembered: where none comes again, a long run must not fill its memory with them


class NotRecordableError(RuntimeError):
    """The step depends on something that a recording would freeze."""


class RecordedBatch(Batch):
    """The batch that a graph reads: its tensors stay, their contents change. Its counts would be frozen: no one may ask."""

    def __getattribute__(self, name: str) -> Any:
        if name in COUNTS:
            raise NotRecordableError(f"the loss reads the batch's {name}, a number of the host")
        return super().__getattribute__(name)

    def to(self, device: torch.device) -> Batch:
        return self


def shapes_of(batch: Batch) -> Shapes:
    """What a graph is recorded for: names, shapes and types of all tensors, and the numbers that the model is given."""
    found = {**batch.inputs, **{f"targets.{name}": tensor for name, tensor in batch.targets.items()}}
    return tuple((name, (x.shape, x.dtype) if isinstance(x, Tensor) else x) for name, x in sorted(found.items()))


@dataclasses.dataclass
class Recording:
    """One graph with the memory that it reads and the loss that it writes."""

    graph: Any
    batch: RecordedBatch
    divisor: Tensor
    loss: Tensor

    def replay(self, batch: Batch, divisor: Tensor) -> Tensor:
        """Adds this micro-batch's share to the gradients; returns its loss, a () SUM."""
        for static, given in ((self.batch.inputs, batch.inputs), (self.batch.targets, batch.targets)):
            for name, tensor in static.items():
                if isinstance(tensor, Tensor):
                    tensor.copy_(given[name], non_blocking=True)  # type: ignore[arg-type]
        self.divisor.copy_(divisor)
        self.graph.replay()
        return self.loss


class GraphedAccumulate:
    """Goes around ``loop.accumulate`` for one rank on a CUDA device.

    The gradients of all graphs lie in one set of buffers, which is zeroed in front of a step: so several micro-batches,
    recorded or not, add up. A parameter that gets no gradient keeps none.
    """

    def __init__(self) -> None:
        self.seen: set[Shapes] = set()
        self.recordings: dict[Shapes, Recording] = {}
        self.buffers: dict[nn.Parameter, Tensor] = {}
        self.pool: Any = None
        self.is_off = False

    def __call__(
        self, accumulate: Accumulate, state: TrainState, task: Any, batches: Collection[Batch], divisor: Tensor
    ) -> Tensor:
        """``accumulate(...)``, with graphs where there are some."""
        shapes = [] if self.is_off else [shapes_of(batch) for batch in batches]
        for batch, its_shapes in zip(batches, shapes, strict=False):
            self.see(its_shapes, accumulate, state, task, batch, divisor)
        if not self.recordings.keys() & set(shapes):
            return accumulate(state, task, batches, divisor)
        self.attach_buffers()
        loss_sum = divisor.new_zeros(())
        for batch, its_shapes in zip(batches, shapes, strict=True):
            if recording := self.recordings.get(its_shapes):
                with state.clock.phase("graph"):
                    loss_sum += recording.replay(batch, divisor)
            else:
                loss_sum += accumulate(state, task, [batch], divisor)
        return loss_sum

    def see(self, shapes: Shapes, accumulate: Accumulate, state: TrainState, task: Any, batch: Batch, divisor: Tensor) -> None:
        """Record a graph for this batch if its shapes come a second time."""
        if shapes in self.seen and shapes not in self.recordings and len(self.recordings) < MOST_GRAPHS and not self.is_off:
            try:
                self.recordings[shapes] = self.record(accumulate, state, task, batch, divisor)
            except RuntimeError as error:  # not recordable, or no memory beside that of eager steps
                self.is_off = True
                self.recordings.clear()
                self.buffers.clear()
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                note(f"CUDA graphs: off, because a step cannot be recorded ({reason})")
                torch.cuda.synchronize(state.device)
        if len(self.seen) < MOST_SEEN:
            self.seen.add(shapes)

    def record(self, accumulate: Accumulate, state: TrainState, task: Any, batch: Batch, divisor: Tensor) -> Recording:
        """A graph of this batch's forward and backward pass. Weights, gradients and random streams stay as they were.

        The first run, beside the graph, compiles and chooses kernels, and shows which parameters get a gradient.
        """
        given = batch.to(state.device)
        fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
        tensors = {
            name: {n: t.clone() if isinstance(t, Tensor) else t for n, t in fields[name].items()}
            for name in ("inputs", "targets")
        }
        static, static_divisor = RecordedBatch(**{**fields, **tensors}), divisor.clone()
        unwatched = dataclasses.replace(state, clock=Clock(torch.device("cpu")))  # its events would be recorded, too
        before = get_generators(state.device)
        stream = torch.cuda.Stream(state.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(state.device))
        try:
            with torch.cuda.stream(stream):
                state.optimizer.zero_grad(set_to_none=True)
                accumulate(unwatched, task, [static], static_divisor)
                self.make_buffers(state.parameters)
                state.optimizer.zero_grad(set_to_none=True)
            torch.cuda.current_stream(state.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=stream):
                loss = accumulate(unwatched, task, [static], static_divisor)
                gradients = [parameter.grad for parameter in self.buffers if parameter.grad is not None]
                torch._foreach_add_(list(self.buffers.values()), gradients)
                state.optimizer.zero_grad(set_to_none=True)  # a graph needs this memory until its end only
        finally:
            set_generators(before)
            state.optimizer.zero_grad(set_to_none=True)
        self.pool = self.pool or graph.pool()
        return Recording(graph, static, static_divisor, loss)

    def make_buffers(self, parameters: list[nn.Parameter]) -> None:
        """Those of the first recording are those of all."""
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if not self.buffers:
            self.buffers = {parameter: torch.zeros_like(parameter) for parameter in trained}
        if set(trained) != set(self.buffers):
            raise NotRecordableError("which parameters get a gradient depends on the batch")

    def attach_buffers(self) -> None:
        """The gradients are these buffers, all zero."""
        torch._foreach_zero_(list(self.buffers.values()))
        for parameter, buffer in self.buffers.items():
            parameter.grad = buffer
