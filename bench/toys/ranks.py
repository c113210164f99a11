"""Several ranks without torchrun: forked processes with its environment, so that nothing is imported again."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets, on one node."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


class NoResult(Exception):
    """A rank has ended without a word: killed, or after its limit, which is SIGALRM."""


@dataclass
class Child:
    """A rank's process, and the pipe that its result comes through."""

    process: int
    pipe: int
    code: int | None = None  # its exit code when it has ended; that of a signal is negative

    def result(self) -> Any:
        """What its function has returned, or the exception it has raised; None if it was killed."""
        with open(self.pipe, "rb") as stream:
            content = stream.read()
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return pickle.loads(content) if content else None


def start_ranks(
    size: int, function: Callable[[int], Any], *, limit_seconds: int = 240, output: Path | None = None
) -> list[Child]:
    """``function(rank)`` in as many processes, what they print appended to a file if one is named."""
    sys.stdout.flush()
    sys.stderr.flush()
    port, children = free_port(), []
    for rank in range(size):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            be_rank(environment(rank, size, port), partial(function, rank), writing, limit_seconds, output)
        os.close(writing)
        children.append(Child(child, reading))
    return children


def be_rank(names: dict[str, str], work: Callable[[], Any], pipe: int, limit_seconds: int, output: Path | None) -> None:
    """In the child; never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would wait for Python to run again
    signal.alarm(limit_seconds)
    os.environ.update(names)
    if output is not None:
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    try:
        result = work()
    except BaseException as error:
        if os.environ.get("SHOW"):
            traceback.print_exc()
        result = error
    try:
        content = pickle.dumps(result)
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(result).__name__}: {result}"))
    with open(pipe, "wb") as result_pipe:
        result_pipe.write(content)
    os._exit(0)


def in_ranks(size: int, function: Callable[[int], Any], *, limit_seconds: int = 240, output: Path | None = None) -> list[Any]:
    """The results of all ranks, when they have ended; NoResult for one that was killed, which a result of None is not."""
    found = []
    for child in start_ranks(size, function, limit_seconds=limit_seconds, output=output):
        result = child.result()
        died = result is None and child.code != 0
        found.append(NoResult(f"exit code {child.code}") if died else result)
    return found
