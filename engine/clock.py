"""Where the time of a step goes: data, forward, backward, optimizer.

On a CPU a phase is the wall time inside it. On CUDA, kernels run behind the program, so a phase is the time between two
events on the stream, read when the log line is written: no synchronisation is added to a step. On MPS it is the time to
hand the work over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASES = ("data", "forward", "backward", "optimizer")


class Clock:
    """Adds up the seconds of each phase until they are taken."""

    def __init__(self, device: torch.device):
        self.on_stream = device.type == "cuda"
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside; ``data`` is the host's waiting, on every device."""
        on_stream = self.on_stream and name != "data"
        if on_stream:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
        began = time.perf_counter()
        try:
            yield
        finally:
            if on_stream:
                end.record()
                self.events.append((name, start, end))
            else:
                self.seconds[name] += time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call; waits for the device to get there."""
        if self.events:
            self.events[-1][2].synchronize()
        for name, start, end in self.events:
            self.seconds[name] += start.elapsed_time(end) / 1000
        taken, self.seconds, self.events = self.seconds, dict.fromkeys(PHASES, 0.0), []
        return taken
