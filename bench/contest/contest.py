"""Runs contenders against each other: one process each, one of them computing at a time, their windows interleaved."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.contest.job import Job
from bench.machine import ROOT
from engine.installed import install

NEEDS = {
    "bench.contest.contenders.accelerate_loop": ("accelerate",),
    "bench.contest.contenders.trainer": ("accelerate",),  # Trainer asks for it
    "bench.contest.contenders.fabric": ("lightning_fabric",),
}


COMPILER_THREADS = 4  # of each contender: several compile at a time
PATIENCE_S = 180.0  # for what should take seconds: importing, all at the same time, and ending


class Contender:
    """One worker process, from outside. ``done``: what it has reported so far; ``error``: why it is out of the race."""

    def __init__(self, job: Job, folder: Path):
        self.job = job
        self.ready: dict[str, Any] = {}
        self.windows: list[dict[str, Any]] = []
        self.done: dict[str, Any] | None = None
        self.error: str | None = None
        self.said = ""  # that it did without the CUDA graphs that it was to record
        self.has_ended = False
        self._log = folder / "stderr.txt"
        job.write(folder / "job.json")
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
        compiler = {"TORCHINDUCTOR_COMPILE_THREADS": str(COMPILER_THREADS), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        environment = compiler | environment  # a cache of its own: nobody profits from another, or finds what a killed one left
        environment |= {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.contest.worker", str(folder / "job.json")],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,  # a group of its own: its compiler's processes end with it
            )  # fmt: skip

        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Its lines, and an empty one at its end."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed by stop
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def read(self, expected: str, seconds: float | None = None) -> dict[str, Any]:
        """The next message; on any other, or none, or none within ``seconds``, the contender is out."""
        try:
            line = self._lines.get(timeout=None if seconds is None else max(seconds, 0.0))
            self.said = said_about_graphs(self._log)
        except queue.Empty:
            self.error = self.error or f"no {expected!r} from it in time: {last_line(self._log)}"
            self.stop()
            return {}
        message: dict[str, Any] = json.loads(line) if line else {}
        if message.get("event") != expected:
            self._process.wait() if not line else self.stop()
            self.error = self.error or f"no {expected!r} from it: {last_line(self._log)}"
        self.done = message.pop("progress", self.done)
        return message

    def go(self, answer: str = "go") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{answer}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.error = self.error or f"it ended early: {last_line(self._log)}"

    def stop(self) -> None:
        """End it with all that it has started, whatever it is doing: a compiler that goes on would slow the others down."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # inside a compiler
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


def run(
    jobs: Sequence[Job],
    *,
    budget_s: float | None = None,
    ready_s: float | None = None,
    keep: Callable[[Sequence[Contender]], None] = lambda contenders: None,
) -> list[Contender]:
    """All windows of all jobs.

    ``ready_s``: a contender that has not compiled and warmed up within as many seconds is out. After ``budget_s`` seconds no
    further round of windows is begun. ``keep`` is called after the warm-up and after each round.
    """
    began = time.monotonic()
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            for index, job in enumerate(jobs):
                (Path(folder) / str(index)).mkdir()
                contenders.append(Contender(job, Path(folder) / str(index)))
            for contender in contenders:  # importing is the only thing that they do at the same time, but for compiling
                contender.read("hello", PATIENCE_S)
            make_ready(contenders, ready_s)
            keep(contenders)
            last = began
            for window in range(max(job.windows for job in jobs)):
                now = time.monotonic()
                if budget_s and window and now - began + (now - last) > budget_s:
                    say(f"  out of time after {window} windows")
                    break
                last = now
                for contender in racing(contenders):
                    race(contender, window, budget_s)
                keep(contenders)
            for contender in racing(contenders):
                if not contender.has_ended:
                    contender.go("stop")
                    contender.read("done", PATIENCE_S)
        finally:
            for contender in contenders:
                contender.stop()
    for contender in contenders:
        if contender.error:
            say(f"  {contender.job.system}: FAILED, {contender.error}")
    return contenders


def make_ready(contenders: Sequence[Contender], ready_s: float | None) -> None:
    """Check and warm-up of all. Those that compile for a GPU do it at the same time: compilers are not what is measured."""
    together = [c for c in racing(contenders) if c.job.compiles and c.job.device.startswith("cuda")]
    began = time.monotonic()
    for contender in together:
        say(f"  {contender.job.system}: check, compilation and warm-up, beside the others")
        contender.go()
    for contender in racing(contenders):
        if contender not in together:
            say(f"  {contender.job.system}: check and warm-up")
            contender.go()
            contender.ready = contender.read("ready", ready_s)
    for contender in together:
        left = None if ready_s is None else ready_s - (time.monotonic() - began)
        contender.ready = contender.read("ready", left)
        say(f"  {contender.job.system}: {contender.error or 'ready'}")


def racing(contenders: Sequence[Contender]) -> list[Contender]:
    return [contender for contender in contenders if contender.error is None]


def race(contender: Contender, window: int, seconds: float | None = None) -> None:
    """One window of one contender."""
    contender.go()
    message = contender.read("window", seconds)
    if contender.error is None:
        contender.windows.append(message)
        rate = message["examples"] / message["seconds"]
        say(f"  {contender.job.system}: window {window + 1} of {contender.job.windows}, {rate:.2f} examples/s")
        if len(contender.windows) == contender.job.windows:  # profiled steps may follow: nobody else computes meanwhile
            contender.read("done", seconds)
            contender.has_ended = True


def missing(job: Job) -> list[str]:
    """Packages that this contender needs and that are not installed."""
    return [name for name in NEEDS.get(job.contender.partition(":")[0], ()) if importlib.util.find_spec(name) is None]


def split_missing(jobs: Sequence[Job]) -> list[Job]:
    """Those that can run; the others are named."""
    able = []
    for job in jobs:
        if names := missing(job):
            say(f"  {job.system}: skipped, {', '.join(names)} is not installed ({install('bench')})")
        else:
            able.append(job)
    return able


def said_about_graphs(log: Path) -> str:
    """Plainloop's own line, where it recorded no CUDA graphs though asked to; else ""."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in lines if line.startswith("CUDA graphs: off")), "")


def last_line(log: Path) -> str:
    """Of what a process wrote, or a note that there is nothing."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1][-300:] if lines else "it wrote nothing"


def say(text: str) -> None:
    """Progress goes to stderr: stdout is for tables."""
    print(text, file=sys.stderr, flush=True)
