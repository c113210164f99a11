"""When a checkpoint is written: before training goes on, or beside it (``--async-save``).

What is written, and how it cannot be half, is checkpoint.py's. Next: record.py, which asks for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from types import TracebackType

from engine.checkpoint import Files, Snapshot, best_step, commit, rotate
from engine.config import note
from engine.errors import UserError


class Saver:
    """Writes at once. Enter it around training: when it is left, all that was saved is on the disk.

    ``whole``: the steps whose checkpoints are known to be whole, with the best step each refers to. ``committed``: those that
    are on the disk and of which nobody has been told yet. ``seconds_behind``: how long after a save it may take until it is
    on the disk.
    """

    seconds_behind = 0.0

    def __init__(self, root: Path, keep: int):
        self.root, self.keep = root, keep
        self.whole: dict[int, int] = {}
        self.committed: list[tuple[int, Path]] = []

    def save(self, snapshot: Snapshot) -> None:
        """Raises ResourceError."""
        self.write(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Commit, then let old ones go."""
        files = snapshot.files()
        self.committed.append((snapshot.step, commit(self.root, snapshot.step, files)))
        self.rotate(snapshot.step, files)

    def rotate(self, step: int, files: Files) -> None:
        """Let old ones go; that of ``step`` is whole, and holds ``files``."""
        self.whole[step] = best_step(files)
        rotate(self.root, self.keep, self.whole)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class AsyncSaver(Saver):
    """Copies the state, which is all that training waits for, and writes the copy in a thread; one at a time.

    What goes wrong there is raised by the next save, or when it is left: a run never ends well with a checkpoint missing.
    """

    def __init__(self, root: Path, keep: int):
        super().__init__(root, keep)
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Raises what the save before has met with."""
        self.wait()
        self._thread = Thread(target=self._write, args=(snapshot.copy(),), name="saving", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot) -> None:
        began = time.perf_counter()
        try:
            self.write(snapshot)
        except BaseException as error:  # handed over to the thread that trains
            self._error = error
        self.seconds_behind = max(self.seconds_behind, 2 * (time.perf_counter() - began))  # one under way, one to come

    def wait(self) -> None:
        """Until nothing is being written. Raises what has gone wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return  # a second Ctrl-C leaves at once; the checkpoint before stands
        try:
            self.wait()
        except UserError as failed:
            if kind is None:
                raise
            note(f"warning: {failed}")  # training has met with an error of its own, which comes first
