"""What a CUDA graph does, on a CPU: operations are recorded and run again on the same memory, and no Python runs."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Graph(TorchDispatchMode):
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.num_replays = 0

    def pool(self) -> Any:
        return "pool"

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() == "aten::_local_scalar_dense":
            raise RuntimeError("operation not permitted when stream is capturing")
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Results go where the recorded ones lie."""
        self.num_replays += 1
        with torch.no_grad():
            for function, args, kwargs, out in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def install(monkeypatch: Any) -> list[Graph]:
    """torch.cuda's recording is this one; the list is of the graphs made."""
    made: list[Graph] = []
    stream = SimpleNamespace(wait_stream=lambda other: None)

    def new() -> Graph:
        made.append(Graph())
        return made[-1]

    @contextmanager
    def graph(recording: Graph, pool: Any = None, stream: Any = None):
        with recording:
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return made
