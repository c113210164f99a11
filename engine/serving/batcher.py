"""Requests that arrive together are computed together: one thread owns the model, and takes what has arrived.

Nothing waits for company: a request that finds the model idle is computed at once, and what arrives meanwhile makes up the
next batch. How rows lie in it, packed say, is the layout's. Next: requests.py, app.py.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from torch import nn

from engine.console import kept_notes
from engine.data.collate import Layout
from engine.data.read import Reads, cuts, kept_reads
from engine.errors import UserError
from engine.task import Task

Log = Callable[[Sequence[Any], Reads, Sequence[dict[str, Any]]], None]
CUT = "cut_to_tokens"  # of a prediction: how many tokens were read of an input that has more


class FullError(Exception):
    """The queue has no room. ``seconds``: after which there may be."""

    def __init__(self, seconds: int):
        super().__init__(f"too many inputs are waiting: ask again in {seconds} s")
        self.seconds = seconds


class LateError(Exception):
    """The time of a request was over before its turn came."""


class GoneError(Exception):
    """Nobody waits for what is written any more."""


class Watch(Protocol):
    """Who counts what is computed."""

    def computed(self, inputs: int, jobs: int, seconds: float) -> None: ...
    def noted(self, notes: Sequence[str]) -> None: ...


@dataclass
class Job:
    """The inputs of one request. ``deadline``: on the monotonic clock; ``part``: is handed the text of the only input while it
    is written, and raises GoneError to end that."""

    inputs: list[Any]
    deadline: float
    part: Callable[[str], None] | None = None
    answer: Future[list[dict[str, Any]]] = field(default_factory=Future)


class Batcher:
    """The queue, and the thread that empties it.

    ``max_batch``: inputs computed at once, but for a request that has more by itself; ``max_waiting``: inputs in the queue.
    """

    def __init__(
        self, task: Task[Any], model: nn.Module, layout: Layout, *, max_batch: int, max_waiting: int, watch: Watch | None = None
    ):
        self.task, self.model, self.layout, self.watch = task, model, layout, watch
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.log: Log | None = None  # is shown what was asked and answered, behind the answers
        self.waiting = 0  # inputs in the queue
        self.pace = 0.01  # seconds an input takes, of late
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Is the thread there that answers?"""
        return self._thread.is_alive() and not self._closed

    def submit(self, job: Job) -> None:
        """Put a job in the queue. Raises FullError."""
        with self._changed:
            if self._closed:
                raise FullError(1)
            if self.waiting + len(job.inputs) > self.max_waiting:
                raise FullError(max(1, math.ceil(self.waiting * self.pace)))
            self.waiting += len(job.inputs)
            self._jobs.append(job)
            self._changed.notify()

    def close(self, wait: bool = True) -> None:
        """Answer what is in the queue, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if wait:
            self._thread.join()

    # ------------------------------------------------------------------------------------------------- in the thread

    def _take(self) -> list[Job]:
        """The jobs that are computed together next, waiting for one; []: it is closed, and nothing is left."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            taken: list[Job] = []
            number = 0
            while self._jobs:
                first = self._jobs[0]
                alone = first.part is not None or not self.task.predicts_apart
                if taken and (alone or number + len(first.inputs) > self.max_batch):
                    break
                self._jobs.popleft()
                self.waiting -= len(first.inputs)
                if not first.answer.set_running_or_notify_cancel():  # whoever asked has gone
                    continue
                if time.monotonic() >= first.deadline:
                    first.answer.set_exception(LateError())
                    continue
                taken.append(first)
                number += len(first.inputs)
                if alone:
                    break
            return taken

    def _work(self) -> None:
        while True:
            jobs = self._take()
            if jobs:
                self._answer(jobs)
            elif self._closed and not self._jobs:
                return

    def _answer(self, jobs: list[Job]) -> None:
        """Compute the jobs together; where that fails, each by itself, so that none suffers from another."""
        try:
            predictions, reads = self._computed(jobs)
        except BaseException as error:  # a library in Rust raises what is no Exception
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:
                    self._answer([job])
            return
        ends = [0]
        for job in jobs:
            ends.append(ends[-1] + len(job.inputs))
        for job, (a, b) in zip(jobs, pairwise(ends), strict=True):
            job.answer.set_result(predictions[a:b])
        if self.log is not None:
            self.log([item for job in jobs for item in job.inputs], reads, predictions)

    def _computed(self, jobs: list[Job]) -> tuple[list[dict[str, Any]], Reads]:
        inputs = [item for job in jobs for item in job.inputs]
        start = time.monotonic()
        with kept_notes() as notes, kept_reads() as reads:
            if (part := jobs[0].part) is not None:
                predictions = [self.task.stream(self.model, inputs[0], part)]
            else:
                predictions = list(self.task.predict(self.model, inputs, self.layout))
        seconds = time.monotonic() - start
        if len(predictions) != len(inputs):
            raise RuntimeError(f"{type(self.task).__name__}.predict gives {len(predictions)} answers to {len(inputs)} inputs")
        self.pace += 0.1 * (seconds / len(inputs) - self.pace)
        if self.watch is not None:
            self.watch.computed(len(inputs), len(jobs), seconds)
            self.watch.noted(notes)
        for row, length in cuts(reads, len(inputs)).items():
            predictions[row] = {**predictions[row], CUT: length}
        return predictions, reads


def is_of_the_request(error: BaseException) -> bool:
    """Is it what was asked that is wrong, and not the model or this program?"""
    return isinstance(error, UserError) and error.exit_code in (2, 3)
