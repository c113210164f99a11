"""Many short processes without paying for their start: one that has imported everything forks the others.

A child has its own memory, files and session, as a process started anew has; what it lacks is the four seconds of
importing torch and what goes with it. The parent must have started no thread before it forks, so it computes nothing;
only jemalloc's, of pyarrow, is there, and that library is made for forks.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "torch", "datasets", "pyarrow.parquet", "transformers", "torchmetrics.functional.classification", "engine.fit",
    "engine.finished", "tasks.classification.task", "tasks.classification.metrics", "run",
)  # fmt: skip
LAZY = (
    "AutoConfig",
    "AutoTokenizer",
    "AutoModelForSequenceClassification",
    "BertForSequenceClassification",
    "BertTokenizerFast",
)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or None if SIGKILL ended it; ``seconds`` it lived."""

    code: int | None
    seconds: float


def warm_up() -> None:
    """Import what a run imports, and let no library start threads of its own."""
    os.environ.update(
        {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
    )
    modules = {name: importlib.import_module(name) for name in MODULES}
    modules["torch"].set_num_threads(1)
    for name in LAZY:
        getattr(modules["transformers"], name)
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("distilbert")  # 1 s, kept


def in_child(
    work: Callable[[Callable[[], None]], int | None], output: Path, kill_after: float | None = None, *, marked: bool = False
) -> Ended:
    """Call ``work`` in a forked process, its output going to a file; SIGKILL after so many seconds, if it still lives.

    They count from the fork or, if ``marked``, from when ``work`` calls the function it is given.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.perf_counter()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        be_child(lambda: work(lambda: os.close(writing)), output)
    os.close(writing)
    ended = os.pidfd_open(child)
    try:
        if marked:
            select.select([ended, reading], [], [])  # closed is readable
        if kill_after is not None:
            ready, _, _ = select.select([ended], [], [], kill_after)
            if not ready:
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(ended)
        os.close(reading)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return Ended(None if killed else os.waitstatus_to_exitcode(status), time.perf_counter() - began)


def be_child(work: Callable[[], int | None], output: Path) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def threads() -> list[str]:
    """The names of this process's threads, as the system has them."""
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
