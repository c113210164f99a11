"""Where the time of a run goes: waiting for data, copying, forward, backward, clipping, the optimizer, logging, and beside
the steps evaluation and saving.

On a CPU a phase is the wall time inside it, and together they are the run's (a test holds them to 2%). On CUDA, kernels
run behind the program, so the phases of the device are the time between two events on the stream, read when the log line
is written: no synchronisation is added to a step. On MPS they are the time to hand the work over. Next: record/profiling.py,
which looks closer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

STREAM = ("copy", "forward", "backward", "graph", "clip", "optimizer")  # what the device does; graph: both passes, recorded
PHASES = ("data", "guard", *STREAM, "log")  # of a step; guard: noting the generators, see memory/retry.py
BETWEEN_STEPS = ("evaluation", "saving", "profiling")  # between steps


class Phase:
    """Times what happens inside, in seconds; a class, since a generator takes 1.5 times as long, eight times a step."""

    def __init__(self, clock: Clock, name: str):
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.watched = self.clock.watch(self.name)
        self.watched.__enter__()
        self.began = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        self.clock.seconds[self.name] += time.perf_counter() - self.began
        self.watched.__exit__(*error)


class PhaseOnStream(Phase):
    """The same between two events on the device's stream."""

    def __enter__(self) -> None:
        self.watched = self.clock.watch(self.name)
        self.watched.__enter__()
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self.start.record()

    def __exit__(self, *error: Any) -> None:
        self.end.record()
        self.clock.events.append((self.name, self.start, self.end))
        self.watched.__exit__(*error)


class Clock:
    """Adds up the seconds of each phase. ``watch`` is entered around each, by name; record/profiling.py puts its own there."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = dict.fromkeys((*PHASES, *BETWEEN_STEPS), 0.0)  # since the start of the process
        self.taken = dict(self.seconds)  # as they were when they were last taken
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.watch: Callable[[str], AbstractContextManager[Any]] = nullcontext
        on_stream = STREAM if device.type == "cuda" else ()
        self.phases = {name: (PhaseOnStream if name in on_stream else Phase)(self, name) for name in self.seconds}

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Time what happens inside; not within itself."""
        return self.phases[name]

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the start of the process; waits for the device to get there."""
        if self.events:
            self.events[-1][2].synchronize()
        for name, start, end in self.events:
            self.seconds[name] += start.elapsed_time(end) / 1000
        self.events = []
        return dict(self.seconds)

    def forget(self) -> None:
        """What was timed so far was no part of the run."""
        self.read()
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.taken = dict(self.seconds)

    def take(self) -> dict[str, float]:
        """Seconds of each phase of a step since the last call; waits for the device, too."""
        now = self.read()
        before, self.taken = self.taken, now
        return {name: now[name] - before[name] for name in PHASES}
