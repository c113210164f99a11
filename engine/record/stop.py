"""Being asked to stop: SIGTERM, SIGHUP (the terminal has gone), Ctrl-C, a time limit, or a stdout that takes no more.

The step at hand is finished and saved, then the run ends; an evaluation is left within, and --resume does it again. A second
Ctrl-C leaves at once: the checkpoint before stands, for none is ever half written. Next: run.py, which asks.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar

from engine.console import is_main_process, lost_output
from engine.distributed.world import World
from engine.errors import ResourceError
from engine.loader import asked_to_stop

EXIT_CODES = {number: 128 + number for number in asked_to_stop()}  # as a shell has it
T = TypeVar("T")
ASK_EVERY = 16  # batches, which all ranks have as many of
NOBODY_READS, NOT_WRITTEN = 141, ResourceError.exit_code  # as with SIGPIPE; a full disk


class StoppedWithinError(Exception):
    """An evaluation was left, for the run is to stop."""


def until_stopped(batches: Iterable[T], stop: Stop, world: World) -> Iterator[T]:
    """The batches. Raises StoppedWithinError on all ranks when one is asked to stop; several ask each other now and then."""
    for number, batch in enumerate(batches):
        if (world.size == 1 or number % ASK_EVERY == 0) and any(world.gather(stop.wanted(0.0))):
            raise StoppedWithinError
        yield batch


class Stop:
    """Watches for signals while it is entered; ``reason`` says why to stop, or is None.

    ``max_minutes`` count from its making. Outside the main thread, where Python hands out no signals, only they do.
    """

    def __init__(self, max_minutes: float | None = None):
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.max_minutes = max_minutes
        self.reason: str | None = None
        self.exit_code = EXIT_CODES[signal.SIGTERM]
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in EXIT_CODES if signal.getsignal(number) != signal.SIG_IGN]  # nohup: no SIGHUP
            self._before = {number: signal.signal(number, self._on_signal) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self, seconds_needed: float) -> bool:
        """Should this step be the last? ``seconds_needed``: what another one and the saving after it would take."""
        if self.reason is None and self.deadline is not None and time.monotonic() + seconds_needed > self.deadline:
            self.reason = f"--max-minutes {self.max_minutes:g}"
        if self.reason is None and (lost := lost_output()) is not None:
            self.reason = f"its output, which cannot be written ({lost.strerror})"
            self.exit_code = NOBODY_READS if lost.errno == errno.EPIPE else NOT_WRITTEN
        return self.reason is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "Ctrl-C":
            raise KeyboardInterrupt
        if self.reason is None:
            self.reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            self.exit_code = EXIT_CODES[signal.Signals(number)]
            again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
            line = f"\n{self.reason}: finishing this step and saving{again}\n"
            if is_main_process():
                with suppress(OSError):  # the terminal may have gone
                    os.write(2, line.encode())  # print may be what was interrupted
