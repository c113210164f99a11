"""Windows of a file predicted by several processes, in the file's order: ``predict --num-processes``.

Each process is a fork of this one, which has opened the model, so the weights are in memory once; each computes with one
thread, so what it computes does not depend on how many there are. Next: in_windows.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from engine import errors
from engine.console import note, notes_heard_by
from engine.errors import ResourceError, UsageError, UserError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # windows for each process that are read before they are asked for
LOST = (
    "a process that predicts was killed, most often by the system, which ran out of memory: lower --num-processes; "
    "what is written stands, and --resume goes on from it"
)

_work: Callable[[Any], Any]  # of a process


def refuse_no_fork() -> None:
    """Raises UsageError where a process cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise UsageError("--num-processes needs a system that forks processes, such as Linux: leave it out")


class Processes(Generic[T, R]):
    """``work`` done by ``number`` processes, which end with this one, whatever ends it."""

    def __init__(self, number: int, work: Callable[[T], R]):
        context = multiprocessing.get_context("fork")
        self.number, self.pipe = number, os.pipe()  # whose end the processes read when this one closes it, or ends
        self.pool = ProcessPoolExecutor(number, context, initializer=begin, initargs=(work, self.pipe))

    def __enter__(self) -> Processes[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        reading, writing = self.pipe
        if kind is None:
            self.pool.shutdown()
        os.close(writing)  # what is still being computed is of no use
        self.pool.shutdown(cancel_futures=True)
        os.close(reading)

    def done(self, items: Iterator[T]) -> Iterator[tuple[T, R]]:
        """Each item with what has been made of it, in order. Raises what ``work`` raises; ResourceError for a lost process."""
        waiting: deque[tuple[T, Future[Any]]] = deque()
        for item in items:
            waiting.append((item, self._given(item)))
            if len(waiting) >= AHEAD * self.number:
                first, future = waiting.popleft()
                yield first, self._result(future)
        for item, future in waiting:
            yield item, self._result(future)

    def again(self, item: T) -> R:
        """One more."""
        return self._result(self._given(item))

    def _given(self, item: T) -> Future[Any]:
        try:
            return self.pool.submit(run, item)
        except BrokenProcessPool as error:
            raise ResourceError(LOST) from error

    def _result(self, future: Future[Any]) -> R:
        try:
            said, result, failed = future.result()
        except BrokenProcessPool as error:
            raise ResourceError(LOST) from error
        for message in said:
            note(message)
        if failed is not None:
            kind, message = failed
            raise getattr(errors, kind)(message)
        return result  # type: ignore[no-any-return]


def begin(work: Callable[[Any], Any], pipe: tuple[int, int]) -> None:
    """What a process does first. It ends with its parent, and is not told of Ctrl-C, which the parent is."""
    import torch

    global _work  # noqa: PLW0603 - of this process
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)

    reading, writing = pipe
    os.close(writing)

    def watch() -> None:
        os.read(reading, 1)  # nothing is ever written
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(item: Any) -> tuple[list[str], Any, tuple[str, str] | None]:
    """What is noted, the result, and the error that a user can mend, which would not come through as it is."""
    said: list[str] = []
    try:
        with notes_heard_by(said.append):
            return said, _work(item), None
    except UserError as error:
        kind = next(base.__name__ for base in type(error).__mro__ if base in KINDS)
        return said, None, (kind, str(error))


KINDS = (errors.UsageError, errors.DataError, errors.ModelError, errors.DivergedError, errors.ResourceError, UserError)
