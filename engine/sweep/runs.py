"""The runs of a sweep: each the ordinary command in a process of its own, which does not outlive the sweep."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from engine import atomic
from engine.console import printable
from engine.errors import StoppedError
from engine.installed import ROOT

STOPS = (129, 130, 143)  # exit codes of a run that was asked to stop, and has saved
PARENT_DIES = 1  # PR_SET_PDEATHSIG of Linux, prctl(2)
TAIL = 1 << 16  # bytes of a log in which its last line is looked for
PATIENCE = 60.0  # seconds that a run has to save when the sweep is stopped


@dataclass(frozen=True)
class Outcome:
    """What became of a run's process. ``line``: the error that it ended with; "" when it ended well."""

    code: int
    line: str
    seconds: float


@dataclass
class Started:
    """A run that goes on. ``log``: what it says, behind what earlier starts have said up to ``start``."""

    process: subprocess.Popen[bytes]
    log: Path
    start: int
    began: float

    def outcome(self) -> Outcome | None:
        """None: it goes on."""
        if (code := self.process.poll()) is None:
            return None
        return Outcome(
            code if code >= 0 else 128 - code, last_line(self.log, self.start) if code else "", time.monotonic() - self.began
        )


def last_line(log: Path, start: int) -> str:
    """The error line of what was said from ``start`` on, else the last line."""
    with open(log, "rb") as stream:
        stream.seek(max(start, log.stat().st_size - TAIL))
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(
        next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "it said nothing")
    )


def start(flags: Sequence[str], log: Path) -> Started:
    """``run.py`` with these flags; it is killed when this process dies, where the system can (Linux)."""
    has_prctl = sys.platform == "linux"
    libc, parent = ctypes.CDLL(None) if has_prctl else None, os.getpid()

    def in_the_child() -> None:
        assert libc is not None
        libc.prctl(PARENT_DIES, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has died already
            os._exit(1)

    with atomic.appending(log) as stream:
        begin = stream.tell()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *flags],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the sweep, which tells its runs
            preexec_fn=in_the_child if has_prctl else None,  # noqa: PLW1509 - the sweep starts runs from its only thread
        )  # fmt: skip
    return Started(process, log, begin, time.monotonic())


def run_all(commands: Sequence[tuple[Sequence[str], Path]], at_once: int, ended: Callable[[int, Outcome], None]) -> None:
    """Start all, so many at once; ``ended`` is told of each, by its number. Raises StoppedError when the sweep, or a run, was
    asked to stop: the others are, too, and save."""
    waiting, going = list(enumerate(commands)), dict[int, Started]()
    try:
        with sigterm_stops():
            while waiting or going:
                while waiting and len(going) < at_once:
                    number, (flags, log) = waiting.pop(0)
                    going[number] = start(flags, log)
                time.sleep(0.02)
                for number, outcome in [(number, found) for number, each in going.items() if (found := each.outcome())]:
                    del going[number]
                    if outcome.code in STOPS:
                        raise StoppedError(f"a run was asked to stop ({outcome.line}): the same command goes on", outcome.code)
                    ended(number, outcome)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped by Ctrl-C: the runs have saved, the same command goes on", 130) from error
    finally:
        stop_all(going)


def stop_all(going: dict[int, Started]) -> None:
    """Runs that go on are asked to save and end; those that do not in time are killed."""
    try:
        for each in going.values():
            each.process.terminate()
        deadline = time.monotonic() + PATIENCE
        while any(each.process.poll() is None for each in going.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for each in going.values():
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """In here SIGTERM raises StoppedError, so that runs are told."""

    def stopped(number: int, frame: FrameType | None) -> None:
        raise StoppedError("stopped by SIGTERM: the runs have saved, the same command goes on", 128 + number)

    before: Any = signal.signal(signal.SIGTERM, stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
