"""A closer look at a few steps: ``--profile N``.

After three steps to get warm, N steps run under torch.profiler. What comes of it stands in ``profile/`` of the run:
``trace.json`` for chrome://tracing or ui.perfetto.dev, and ``profile.json``, from which the report draws the phases of each
step, the memory after each phase and what holds it, the memory over the time of one step (memory_curve.py), the time of
each module (modules.py), and the operations that took longest. The loop knows nothing of this: the clock's phases are where
it looks from. Inside the window the host waits for the device after each step, and nowhere else. Next: advice.py, what
follows from it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from engine import atomic
from engine.clock import BETWEEN_STEPS, PHASES
from engine.console import note
from engine.distributed.device import usable_cores
from engine.memory.usage import memory_gb
from engine.record import modules
from engine.record.advice import advice, kinds
from engine.record.memory_curve import curve, noting_gradients, with_buckets
from engine.record.run import Run

WARM_UP = 3  # steps before the window; in the last of them the profiler gets ready
NUM_OPERATIONS, NUM_MODULES = 10, 10  # in the tables
FOLDER = "profile"  # of the run


@contextmanager
def profiling(run: Run, num_steps: int | None, model: nn.Module | None, **facts: str) -> Iterator[None]:
    """Look at ``num_steps`` steps of what runs inside; None: at nothing, and nothing is touched.

    ``model``: whose modules are told apart; None where their forward passes are not called one by one, as in a compiled
    or recorded step. ``facts``: the ``layout`` of the batches, as Layout has it, and the ``precision``.
    """
    if num_steps is None:
        yield
        return
    window = Window(run, num_steps, model, facts)
    run.state.clock.watch = window.phase
    try:
        yield
        window.stop()  # the run has ended before it was full
    finally:
        window.close()


class Window:
    """What ``clock.watch`` is meanwhile: told of every phase, it finds the steps, since each begins with its data."""

    def __init__(self, run: Run, num_steps: int, model: nn.Module | None, facts: Mapping[str, str]):
        self.run, self.clock, self.directory, self.num_steps = run, run.state.clock, run.directory / FOLDER, num_steps
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it tells of its stages on stderr else
        device = [ProfilerActivity.CUDA] if run.state.device.type == "cuda" else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *device], profile_memory=True, acc_events=True)
        self.model, self.facts, self.spans = model, facts, ExitStack()
        self.gradients: list[tuple[int, int]] = []  # as they came
        self.in_buckets = False  # of DDP, which are there from the start
        self.step, self.is_over = 0, False  # steps of this process
        self.steps: list[dict[str, Any]] = []
        self.memory: dict[str, float] = {}  # after each phase of this step
        self.with_gradients: list[str] = []  # the phases after which there are some
        self.before: dict[str, float] = {}
        self.began = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if name == "data" or name in BETWEEN_STEPS:
            self.end_step()
        if name in BETWEEN_STEPS and self.steps:
            self.stop()  # what an evaluation does would be among the hottest operations
        if name == "data" and not self.is_over:
            self.begin_step()
        with record_function(name):
            yield
        if self.began and name in PHASES:
            self.memory[name] = memory_gb(self.clock.device)
            if self.run.state.parameters[-1].grad is not None:
                self.with_gradients.append(name)

    def begin_step(self) -> None:
        self.step += 1
        if self.step in (WARM_UP, WARM_UP + 1):
            with self.run.paused("profiling"):
                self.profiler.prepare_trace() if self.step == WARM_UP else self.start()
        if self.step > WARM_UP:
            self.before, self.began = self.clock.read(), time.perf_counter()

    def start(self) -> None:
        if self.model is not None:
            self.spans.enter_context(modules.spans_of(self.model))
            self.in_buckets = self.run.state.replica is not self.run.state.model
            if not self.in_buckets:
                self.spans.enter_context(noting_gradients(self.run.state.parameters, self.gradients))
        self.profiler.start_trace()

    def held_gb(self) -> dict[str, float]:
        """GiB of this rank's weights, gradients and optimizer state; what is beside them is activations, and what passes."""
        state = self.run.state
        found: dict[str, Sequence[Tensor]] = {
            "weights": [*state.model.parameters(), *state.model.buffers()],
            "gradients": state.parameters,  # each of its parameter's size and type
            "optimizer": [t for each in state.optimizer.state.values() for t in each.values() if isinstance(t, Tensor)],
        }
        return {name: sum(local_bytes(tensor) for tensor in tensors) / 2**30 for name, tensors in found.items()}

    def end_step(self) -> None:
        if not self.began:
            return
        now = self.clock.read()  # waits for the device, so that the step has its own work and no other's
        phases = {name: now[name] - self.before[name] for name in PHASES}
        seconds = time.perf_counter() - self.began
        memory = {"memory_gb": self.memory, "with_gradients": self.with_gradients}
        self.steps.append({"step": self.run.state.step, "seconds": seconds, "phases": phases} | memory)
        self.memory, self.with_gradients, self.began = {}, [], 0.0
        if len(self.steps) == self.num_steps:
            self.stop()

    def stop(self) -> None:
        """Look no further; this counts as no training time."""
        if self.is_over:
            return
        self.is_over, self.clock.watch = True, nullcontext
        self.spans.close()
        if self.step > WARM_UP:
            with self.run.paused("profiling"):
                self.profiler.stop_trace()

    def close(self) -> None:
        """At the end of the run, since other ranks would wait for it: write what was seen, and print it."""
        if not self.is_over:  # it has failed in the middle of a step: what was seen is not a whole number of them
            return self.stop()
        if not self.steps:
            return self.run.say(f"profile    nothing to see: it begins after {WARM_UP} steps, and the run has ended")
        try:
            with self.run.paused("profiling"):
                self.write()
        except OSError as error:  # it is not worth the run
            note(f"warning: the profile could not be written in {self.directory}: {error.strerror}")

    def write(self) -> None:
        wall, on_device = sum(step["seconds"] for step in self.steps), self.clock.device.type == "cuda"
        averages, events = self.profiler.key_averages(), self.profiler.events() or []
        own = modules.own_times(events, on_device=on_device) if self.model is not None else {}
        found: dict[str, Any] = {
            "device": self.clock.device.type,
            "steps": self.steps,
            "asked": self.num_steps,
            "operations": hottest(averages, len(self.steps), wall, on_device=on_device),
            "modules": modules.with_parts(own, self.model, len(self.steps), wall) if self.model is not None else [],
            "held_gb": self.held_gb(),
            "memory_over_time": self.memory_over_time(events, on_device=on_device),
            "busy": busy(self.kernels(), wall) if on_device else None,
            "kinds": kinds(averages, wall, on_device=on_device),
            "spare_cores": usable_cores() - torch.get_num_threads(),
            "run": self.settings(),
        }
        found["advice"] = self.advised(found)
        self.directory.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=atomic.FOLDER, dir=self.directory) as folder:
            self.profiler.export_chrome_trace(f"{folder}/trace.json")
            atomic.move(Path(folder) / "trace.json", self.directory / "trace.json")
        atomic.write(self.directory / "profile.json", json.dumps(found, indent=1) + "\n")
        self.run.say(text_of(found))
        self.run.say(f"  {self.directory / 'trace.json'}: open it in ui.perfetto.dev, or chrome://tracing")

    def memory_over_time(self, events: Sequence[Any], *, on_device: bool) -> dict[str, Any] | None:
        found = curve(events, self.gradients, self.steps[0]["step"], on_device=on_device)
        return with_buckets(found, self.held_gb()["gradients"]) if found and self.in_buckets else found

    def advised(self, found: dict[str, Any]) -> list[str]:
        return advice(found, self.run.total.padding_waste)

    def settings(self) -> dict[str, Any]:
        """How this run computes: what advice depends on, and what two profiles have to have in common."""
        config = self.run.config
        chosen = {"batching": config.batching, "workers": config.workers, "compile": config.compile}
        return chosen | {"ranks": self.run.world.size, "threads": torch.get_num_threads(), **self.facts}

    def kernels(self) -> list[tuple[float, float]]:
        """(start, end) in microseconds of what ran on the device: kernels, copies, and not our names for phases."""
        return [
            (event.time_range.start, event.time_range.end)
            for event in self.profiler.events() or []
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]


def local_bytes(tensor: Tensor) -> int:
    """Of a sharded tensor, this rank's part."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part.numel() * part.element_size()


def hottest(averages: Sequence[Any], num_steps: int, wall: float, *, on_device: bool) -> list[dict[str, Any]]:
    """The operations by their own time, without what they call: milliseconds and calls a step, share of the wall clock."""
    kind = "CUDA" if on_device else "CPU"
    rows = [
        {"name": event.key, "milliseconds": own / 1000 / num_steps, "calls": event.count / num_steps, "share": own / 1e6 / wall}
        for event in averages
        if event.device_type.name == kind and not event.is_user_annotation and event.key not in (*PHASES, *BETWEEN_STEPS)
        and (own := event.self_device_time_total if on_device else event.self_cpu_time_total) > 0
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["milliseconds"])[:NUM_OPERATIONS]


def busy(kernels: Sequence[tuple[float, float]], wall: float) -> dict[str, float]:
    """The share of the wall clock (seconds) in which the device worked at all, and its longest pause.

    ``kernels``: (start, end) in microseconds; several may run at once.
    """
    merged: list[list[float]] = []
    for start, end in sorted(kernels):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    gaps = [after[0] - before[1] for before, after in pairwise(merged)]
    worked = sum(end - start for start, end in merged) / 1e6
    return {"share": worked / wall, "num_gaps": len(gaps), "longest_gap_ms": max(gaps, default=0.0) / 1000}


def text_of(found: dict[str, Any]) -> str:
    """The profile as lines for the terminal."""
    steps, num_steps = found["steps"], len(found["steps"])
    wall = sum(step["seconds"] for step in steps)
    spent = {phase: sum(step["phases"][phase] for step in steps) for phase in PHASES}
    phases = ", ".join(f"{name} {seconds / wall:.0%}" for name, seconds in spent.items() if seconds / wall >= 0.005)
    which = f"steps {steps[0]['step']} to {steps[-1]['step']}" if num_steps > 1 else f"step {steps[0]['step']}"
    if num_steps < found["asked"]:
        which += f" ({num_steps} of {found['asked']}: an evaluation, a save or the end of the run came then)"
    lines = [f"profile    {which}: {1000 * wall / num_steps:.1f} ms{' each' * (num_steps > 1)}; {phases}"]
    if found["busy"]:
        lines.append(
            f"  the device worked {found['busy']['share']:.0%} of the time, with {found['busy']['num_gaps']} gaps, "
            f"of which the longest was {found['busy']['longest_gap_ms']:.2f} ms"
        )
    lines.append(f"  {'own time of the hottest operations':<60} ms/step  calls/step  of wall")
    for row in found["operations"]:
        lines.append(f"  {row['name'][:58]:<60} {row['milliseconds']:>7.2f} {row['calls']:>11.1f}  {row['share']:>7.1%}")
    if found["modules"]:
        lines.append(f"  {'own time by module, forward and backward, of all layers':<60} ms/step     modules  of wall")
    for name, count, own in modules.over_layers(found["modules"], NUM_MODULES):
        lines.append(f"  {name[-58:]:<60} {own:>7.2f} {count:>11}  {own * num_steps / 1000 / wall:>7.1%}")
    lines += [f"  advice: {line}" for line in found["advice"]]
    return "\n".join(lines)
