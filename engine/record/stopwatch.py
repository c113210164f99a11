"""Training time: wall-clock seconds without evaluation, saving and profiling, for the rates and for ``--max-minutes``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.clock import BETWEEN_STEPS, PHASES, Clock


class Stopwatch:
    """``train_seconds``: of the whole run, over its resumes; ``process_seconds``: of this process.

    ``window_seconds``: since the last log line. ``slowest``: the longest step, evaluation and save so far, in seconds.
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self.train_seconds = self.process_seconds = self.window_seconds = 0.0
        self.slowest: dict[str, float] = {"step": 0.0, "saving": 0.0}
        self._mark = self._stepped = time.perf_counter()

    def start(self) -> None:
        """Begin to count: what came before the training does not."""
        self._mark = time.perf_counter()

    def lap(self) -> None:
        """Count the time up to now."""
        now = time.perf_counter()
        self.train_seconds += now - self._mark
        self.process_seconds += now - self._mark
        self.window_seconds += now - self._mark
        self._mark = now

    def step_done(self) -> None:
        """A step has ended; an evaluation or a save in between is not part of it."""
        now = time.perf_counter()
        self.slowest["step"] = max(self.slowest["step"], now - max(self._mark, self._stepped))
        self._stepped = now

    @contextmanager
    def paused(self, phase: str) -> Iterator[None]:
        """What happens inside is not training time."""
        self.lap()
        with self.clock.phase(phase):
            yield
        began, self._mark = self._mark, time.perf_counter()
        self.slowest[phase] = max(self.slowest.get(phase, 0.0), self._mark - began)

    def seconds_to_end(self, num_steps: int) -> float:
        """What ``num_steps`` more steps, an evaluation and a save would take, if they went as the slowest so far."""
        return num_steps * self.slowest["step"] + self.slowest["saving"] + self.slowest.get("evaluation", 0.0)

    def where_time_went(self) -> str:
        """One line: the share of each phase in this process's training time, and what came beside it."""
        seconds = self.clock.read()
        training = max(self.process_seconds, 1e-9)
        shares = {name: seconds[name] / training for name in PHASES}
        shares["other"] = max(1 - sum(shares.values()), 0.0)
        shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
        others = ", ".join(f"{seconds[name]:.1f} s {name}" for name in BETWEEN_STEPS if seconds[name] or name != "profiling")
        return f"time       {training:.1f} s training: {shown}; {others}"
