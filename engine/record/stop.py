"""Being asked to stop: SIGTERM, Ctrl-C, or a time limit. The step at hand is finished and saved, then the run ends.

A second Ctrl-C leaves at once: the checkpoint before stands, for none is ever half written. Next: run.py, which asks.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from engine.console import is_main_process

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


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
            self._before = {number: signal.signal(number, self._on_signal) for number in EXIT_CODES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self, seconds_needed: float) -> bool:
        """Should this step be the last? ``seconds_needed``: what another one and the saving after it would take."""
        if self.reason is None and self.deadline is not None and time.monotonic() + seconds_needed > self.deadline:
            self.reason = f"--max-minutes {self.max_minutes:g}"
        return self.reason is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "Ctrl-C":
            raise KeyboardInterrupt
        if self.reason is None:
            self.reason = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            self.exit_code = EXIT_CODES[signal.Signals(number)]
            again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
            line = f"\n{self.reason}: finishing this step and saving{again}\n"
            if is_main_process():
                os.write(2, line.encode())  # print may be what was interrupted
