"""When a checkpoint is written: before training goes on, or beside it (``--async-save``).

What is written, and how it cannot be half, is store.py's. Next: record/run.py, which asks for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from types import TracebackType

import torch

from engine.checkpoint.snapshot import Snapshot
from engine.checkpoint.store import amended, best_step, commit, rotate
from engine.console import note
from engine.distributed.lost_ranks import is_lost_rank
from engine.distributed.world import World
from engine.errors import DistributedError, UserError


class Saver:
    """Writes at once. Enter it around training: when it is left, all that was saved is on the disk.

    ``world``: the ranks that each write a part, all of which then use their saver alike; None: this process writes alone.
    ``verified``: the steps whose checkpoints are whole, with the best step each refers to. ``committed``: those that
    are on the disk and of which nobody has been told yet. ``seconds_behind``: how long after a save it may take until it is
    on the disk.
    """

    seconds_behind = 0.0

    def __init__(self, root: Path, keep: int | str, world: World | None = None):
        self.root, self.keep = root, keep
        self.world = world or World(torch.device("cpu"))
        self.verified: dict[int, int] = {}
        self.committed: list[tuple[int, Path]] = []

    def save(self, snapshot: Snapshot, *, amends: bool = False, is_final: bool = True) -> None:
        """Write the snapshot before training goes on. Raises ResourceError.

        ``amends``: the step has a checkpoint, and only the state is new. ``is_final``: nothing more will be said of the step.
        """
        self.write(snapshot, amends, is_final)

    def write(self, snapshot: Snapshot, amends: bool, is_final: bool) -> None:
        """Commit, then let old ones go."""
        files = snapshot.files()
        path = commit(self.root, snapshot.step, amended(self.root, snapshot.step, files) if amends else files, self.world)
        self.committed += [(snapshot.step, path)] * is_final
        self.world.on_main_rank(lambda: self.rotate(snapshot.step, snapshot.state_json))

    def rotate(self, step: int, state_json: bytes) -> None:
        """Let old ones go; that of ``step`` is whole. Not collective."""
        self.verified[step] = best_step(state_json)
        rotate(self.root, self.keep, self.verified)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class AsyncSaver(Saver):
    """Copies the state, which is all that training waits for, and writes the copy in a thread; one at a time.

    What goes wrong there is raised by the next save, or when it is left: a run never ends well with a checkpoint missing.
    The threads of several ranks talk over connections of their own, beside the training.
    """

    def __init__(self, root: Path, keep: int | str, world: World | None = None):
        super().__init__(root, keep, None if world is None else world.with_own_group())
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot, *, amends: bool = False, is_final: bool = True) -> None:
        """Copy the snapshot, and write the copy in a thread. Raises what the save before has met with.

        What amends a checkpoint is written at once: there is little of it.
        """
        self.wait()
        if amends:
            return self.write(snapshot, amends, is_final)
        self._thread = Thread(target=self._write, args=(snapshot.copy(), is_final), name="saving", daemon=True)
        self._thread.start()

    def _write(self, snapshot: Snapshot, is_final: bool) -> None:
        began = time.perf_counter()
        try:
            self.write(snapshot, False, is_final)
        except BaseException as error:  # handed over to the thread that trains
            self._error = error
        self.seconds_behind = max(self.seconds_behind, 2 * (time.perf_counter() - began))  # one under way, one to come

    def wait(self) -> None:
        """Wait until nothing is being written. Raises what has gone wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return  # a second Ctrl-C leaves at once; the checkpoint before stands
        if error is not None and self.world.size > 1 and (isinstance(error, DistributedError) or is_lost_rank(error)):
            return  # the thread waits for a rank that does not come
        try:
            self.wait()
        except UserError as failed:
            if kind is None:
                raise
            note(f"warning: {failed}")  # training has met with an error of its own, which comes first
