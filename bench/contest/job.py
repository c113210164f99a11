"""What one process of the bench is told: the work, which is the same for all, and how its tool goes about it.

A job travels as a JSON file, so that a row of the results can name everything that it was measured with.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One contender's share of a contest. ``contender`` is ``module:function``; see contenders/__init__.py."""

    system: str
    contender: str
    track: str
    tokens: str  # the .npz file of workload.py
    model: str
    task: str = "classification"  # or language: predict each next token
    device: str = "cpu"
    threads: int | None = None
    allocator: str = "default"

    # The recipe: the same for everyone, and checked (validity.py).
    batch_size: int = 16
    max_length: int = 512
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 42

    # The protocol (timing.py).
    check_steps: int = 3
    warmup: int = 1
    steps: int = 6
    windows: int = 3
    profile_steps: int = 0
    total_steps: int = 0  # of the schedule; 0: warm-up and windows
    measure_floor: bool = False
    settle: int = 0  # steps of each window before its clock starts: caches are warm again after the others' windows

    # How: what a tool is free to choose.
    precision: str = "fp32"
    batching: str = "padded"  # Plainloop's --batching; peers know padded, bucketed, max_length and flattened
    fused: bool = False
    compile: bool = False
    cuda_graph: bool | None = None  # steps are recorded; None: as the tool chooses
    round_to: int = 1  # peers: padded to the next multiple of it
    attention: str = "sdpa"  # of peers, by transformers' name
    precollated: bool = False  # batches are collated, and pinned for CUDA, before training begins, for all alike
    tf32: bool = False
    tuned: bool = False  # what costs nothing but knowing about it: pinned memory, no progress bar, no NaN filter
    fast_dropout: bool = True

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the schedule."""
        return self.total_steps or self.warmup + (self.settle + self.steps) * self.windows + self.profile_steps

    @property
    def compiles(self) -> bool:
        """Is it not ready before a compiler has ended?"""
        return self.compile or self.attention == "flex_attention"

    @property
    def flags(self) -> dict[str, Any]:
        """The choices, for the results."""
        names = ("precision", "batching", "round_to", "attention", "fused", "compile", "cuda_graph", "tf32", "tuned",
                 "fast_dropout", "precollated", "settle", "allocator", "threads")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def for_check(self) -> Job:
        """The same job with the examples in random order: every contender is checked on the same batches."""
        return dataclasses.replace(self, batching="padded") if self.batching == "bucketed" else self

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))
