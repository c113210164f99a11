"""The gate: every contender calls it once after each optimizer step, and it alone measures.

It runs warm-up and windows, and at each boundary waits for the device, reports a line of JSON to the parent and blocks
until the parent says ``go``. So all processes are alive at once, exactly one computes, and the windows of all systems
interleave: what the machine does meanwhile hits all of them alike.

It also watches: which rows were put into each batch (``watched``), and, by a hook that torch calls before every update,
with which learning rate, decay groups and clipped gradients. No contender reports its own settings.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bench.contest.job import Job
from bench.contest.workload import dropouts, weights_sha

SCARCE = 0.25  # share of the device's memory that is left for whoever computes next


def cost_clock(device: torch.device) -> Callable[[], float]:
    """What the loop's own cost is measured in: processor time on a CPU, where one thread does everything, so that what
    else the machine does is not counted; wall time elsewhere."""
    return time.process_time if device.type == "cpu" else time.perf_counter


class Channel:
    """JSON lines to the parent, ``go`` or ``stop`` back."""

    def __init__(self, output: TextIO, answers: TextIO = sys.stdin):
        self.output, self.answers = output, answers

    def send(self, event: str, **values: Any) -> None:
        self.output.write(json.dumps({"event": event, **values}) + "\n")
        self.output.flush()

    def wait(self) -> bool:
        """True for ``go``; anything else, the parent's end included, means stop."""
        return self.answers.readline().strip() == "go"


@dataclass(frozen=True)
class Counts:
    """One batch as it was put together."""

    rows: list[int]
    num_tokens: int
    executed_tokens: int
    sum_squares: int


class Watch:
    """What torch saw before each update."""

    def __init__(self, model: nn.Module, *, norms: bool):
        self.model, self.want_norms = model, norms
        self.learning_rates: list[float] = []
        self.norms: list[float] = []
        self.init_sha = ""
        self.groups: dict[str, int] = {}
        self.dropout: list[float] = []

    def __enter__(self) -> Watch:
        self.handle = register_optimizer_step_pre_hook(self._before_update)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self.init_sha:  # before the first update, so what training really started from
            self.init_sha = weights_sha(self.model)
            self.dropout = dropouts(self.model)
            for group in optimizer.param_groups:
                decay = str(float(group["weight_decay"]))
                self.groups[decay] = self.groups.get(decay, 0) + len(group["params"])
        self.learning_rates.append(float(optimizer.param_groups[0]["lr"]))
        if self.want_norms:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.norms.append(
                float(torch.stack([p.grad.detach().float().norm() for p in parameters if p.grad is not None]).norm())
            )

    def report(self) -> dict[str, Any]:
        return {"learning_rates": self.learning_rates, "norms": self.norms, "init_sha": self.init_sha,
                "groups": self.groups, "dropout": self.dropout}  # fmt: skip


class Gate:
    """Between a contender's steps. ``floor``: seconds of one forward and backward pass alone, measured before a window."""

    def __init__(
        self,
        job: Job,
        channel: Channel,
        device: torch.device,
        *,
        check: bool,
        floor: Callable[[], float] | None = None,
        recompiles: Callable[[], int] = lambda: 0,
    ):
        self.job, self.channel, self.device, self.check = job, channel, device, check
        self.floor, self.recompiles = floor, recompiles
        self.precision, self.layout = job.precision, job.batching  # a contender that decides for itself says so here
        self.progress: Callable[[], dict[str, Any]] = dict  # what is sent with each window, beside its times
        self.queue: deque[Counts] = deque()
        self.batches: list[Counts] = []
        self.losses: list[float] = []
        self.num_windows = 0
        self.profile: Any = None
        self._pending: list[Tensor] = []
        self._cost = cost_clock(device)
        self._cost_began = self._cost()
        self._began = self._last = time.perf_counter()
        self._steps: list[float] = []
        self._compiled = 0
        self._floor_seconds: float | None = None

    @property
    def num_steps(self) -> int:
        """Optimizer steps that this phase will take."""
        return min(self.job.check_steps, self.job.num_steps) if self.check else self.job.num_steps

    # --------------------------------------------------------------------------------------------- for the contenders

    def watched(self, collate: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[dict[str, Any]]], Any]:
        """``collate``, noting which rows went in. Batches may be made ahead of their step, so they queue."""

        def watching(features: list[dict[str, Any]]) -> Any:
            rows = [feature["row"] for feature in features]
            lengths = [len(feature["input_ids"]) for feature in features]
            batch = collate([{k: v for k, v in feature.items() if k != "row"} for feature in features])
            self.saw(rows, sum(lengths), batch["input_ids"].numel(), sum(n * n for n in lengths))
            return batch

        return watching

    def saw(self, rows: Sequence[int], num_tokens: int, executed_tokens: int, sum_squares: int) -> None:
        """A batch has been put together."""
        self.queue.append(Counts(list(rows), num_tokens, executed_tokens, sum_squares))

    def step(self, loss: Tensor) -> bool:
        """One optimizer step has been done, with this mean loss. False: stop training."""
        now = time.perf_counter()
        self._steps.append(now - self._last)
        self._last = now
        self._pending.append(loss.detach().clone())  # a CUDA graph writes its loss to the same place in each step
        if self.queue:
            self.batches.append(self.queue.popleft())
        job, done = self.job, len(self._pending) + len(self.losses)
        if self.check:
            if done < self.num_steps:
                return True
            self._read_losses()
            return False
        if done == job.warmup:
            return self._end_warmup()
        timed, length = done - job.warmup, job.settle + job.steps
        if timed > 0 and self.num_windows < job.windows:
            if timed % length == 0:
                return self._end_window()
            if timed % length == job.settle:
                self._start_clock()
        if self.profile is not None and timed == length * job.windows + job.profile_steps:
            self.profile.stop()
            self._read_losses()
            return False
        return True

    # ------------------------------------------------------------------------------------------------------- boundaries

    def synchronise(self) -> float:
        """Wait for the device; the time then."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _end_warmup(self) -> bool:
        seconds = self.synchronise() - self._began
        self._read_losses()
        self._compiled = self.recompiles()
        self._release()
        self.channel.send("ready", warmup_s=seconds, compiled=self._compiled)
        return self._start_window()

    def _release(self) -> None:
        """Give back memory that this process only caches, if the device has little left for the others."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            if free < total * SCARCE:
                torch.cuda.empty_cache()

    def _start_window(self) -> bool:
        go = self.channel.wait()
        if go and self.floor is not None:
            self._floor_seconds = self.floor()
        self._start_clock()
        return go

    def _start_clock(self) -> None:
        self._steps = []
        self._began = self._last = self.synchronise()
        self._cost_began = self._cost()

    def _end_window(self) -> bool:
        seconds = self.synchronise() - self._began
        cost = self._cost() - self._cost_began
        self.num_windows += 1
        self._read_losses()
        self._release()
        counts = [asdict(batch) for batch in self.batches[-self.job.steps :]]
        self.channel.send(
            "window",
            seconds=seconds,
            step_s=self._steps,
            cost_s=cost,
            floor_s=self._floor_seconds,
            examples=sum(len(c["rows"]) for c in counts),
            recompiles=self.recompiles() - self._compiled,
            progress=self.progress(),
            **{name: sum(c[name] for c in counts) for name in ("num_tokens", "executed_tokens", "sum_squares")},
        )
        if self.num_windows < self.job.windows:
            return self._start_window()
        if not self.job.profile_steps:
            return False
        self.profile = torch.profiler.profile()
        self.profile.start()
        return True

    def _read_losses(self) -> None:
        """Between windows only: reading waits for the device."""
        self.losses += [float(loss) for loss in self._pending]
        self._pending = []

    def report(self) -> dict[str, Any]:
        """What was done in all, for validity.py."""
        return {"losses": self.losses, "rows": [batch.rows for batch in self.batches[: len(self.losses)]],
                "num_tokens": sum(batch.num_tokens for batch in self.batches[: len(self.losses)])}  # fmt: skip
