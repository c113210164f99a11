"""When a checkpoint is written: before training goes on, or beside it (``--async-save``).

What is written, and how it cannot be half, is checkpoint.py's. Next: record.py, which asks for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from engine.checkpoint import Snapshot, commit, rotate


class Saver:
    """Writes at once. Enter it around training: when it is left, all that was saved is on the disk.

    ``whole``: steps known to be whole. ``seconds``: the longest that writing has taken.
    """

    def __init__(self, root: Path, keep: int):
        self.root, self.keep = root, keep
        self.whole: set[int] = set()
        self.seconds = 0.0

    def save(self, snapshot: Snapshot) -> None:
        """Raises ResourceError."""
        self.write(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Commit, then let old ones go."""
        began = time.perf_counter()
        commit(self.root, snapshot.step, snapshot.files())
        self.whole.add(snapshot.step)
        rotate(self.root, self.keep, self.whole)
        self.seconds = max(self.seconds, time.perf_counter() - began)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
